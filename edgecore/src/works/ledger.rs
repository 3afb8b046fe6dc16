//! What each Work brought here, written down before it is brought: whatever happens to the Work or to the agent, its objects are found.

use metastore::store::{ObjectKey, Op, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::kinds::Kinds;
use super::manifest::{Place, Said};

/// The bucket of it; keys are `<namespace>/<name>`.
pub(super) const BUCKET: &str = "works";
/// Accounts read at a time.
const PAGE: usize = 256;

/// The account of one Work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) manifests: Vec<Entry>,
    /// The objects stay when the Work goes.
    #[serde(default)]
    pub(super) preserve: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) resource: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Entry {
    pub(super) fn of(place: &Place) -> Self {
        Self {
            group: (*place.kind.group).to_owned(),
            version: (*place.kind.version).to_owned(),
            kind: (*place.kind.kind).to_owned(),
            resource: (*place.kind.plural).to_owned(),
            namespace: (*place.key.namespace).to_owned(),
            name: (*place.key.name).to_owned(),
        }
    }

    pub(super) fn key(&self) -> ObjectKey {
        ObjectKey::new(&*self.group, &*self.resource, &*self.namespace, &*self.name)
    }

    /// Where it is, if its kind is still served: in the version that it was brought in, or in any other.
    pub(super) fn place(&self, kinds: &Kinds) -> Option<Place> {
        let api_version = super::kinds::api_version(&self.group, &self.version);
        let kind = kinds
            .of(&api_version, &self.kind)
            .or_else(|| kinds.of_resource(&self.group, &self.resource))?;
        Some(Place {
            kind: kind.clone(),
            key: self.key(),
        })
    }

    /// Whether a manifest asks for it, in whatever version, served or not.
    pub(super) fn is_asked_for_by(&self, manifest: &Said<'_>) -> bool {
        self.group == manifest.group()
            && self.kind == manifest.kind
            && self.name == manifest.name
            && (self.namespace.is_empty() || self.namespace == manifest.namespace)
    }
}

/// The account of a Work; an empty one when there is none, or one that cannot be read.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn read(store: &Store, work: &str) -> Result<Account, StoreError> {
    let text = store.kv_get(BUCKET, work.as_bytes())?;
    Ok(text
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default())
}

/// Writes the account of a Work, or forgets it when there is nothing in it.
pub(super) fn write(work: &str, account: &Account) -> Op {
    let (bucket, key) = (BUCKET.into(), work.as_bytes().to_vec());
    if account.manifests.is_empty() {
        return Op::KvDelete { bucket, key };
    }
    let value = serde_json::to_vec(account).expect("texts always serialize");
    Op::KvPut { bucket, key, value }
}

/// All Works that have an account.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn works(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(String::as_bytes);
        let page = store.kv_page(BUCKET, b"", after, PAGE)?;
        let more = page.len() == PAGE;
        all.extend(
            page.into_iter()
                .map(|(key, _)| String::from_utf8_lossy(&key).into_owned()),
        );
        if !more {
            return Ok(all);
        }
    }
}
