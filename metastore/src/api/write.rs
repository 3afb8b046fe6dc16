//! The one way objects are written: requests and in-process callers alike come through [`Core::create`], [`Core::update`] and [`Core::delete`].
//!
//! Each reads, computes the whole new object, admits, validates and commits with the revision it read as precondition; a lost race is
//! computed again. Nothing is answered before the commit is on disk.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::addresses::Giver;
use super::apply::{self, Manager};
use super::auth::{AdmitContext, Operation, User, Warnings};
use super::builtin::Gave;
use super::delete::grace_left;
use super::kinds::{KindSpec, StatusPart, SubPart};
use super::request::Strictness;
use super::schema::{embedded, limits, shape, types};
use super::server::{Call, Core};
use super::status::{Cause, Status};
use super::{custom, definitions, meta, names};
use crate::store::{CommitError, Expect, Object, ObjectKey, Op, StoreError, Tx};

/// How often a write that lost a race is computed again before the client is told.
pub(crate) const MAX_RACES: usize = 32;
/// How many generated names are tried.
const MAX_NAMES: usize = 8;

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// All but the status where that is apart.
    Main,
    /// The status only.
    Status,
    /// What a subresource of the kind is about.
    Sub(&'static SubPart),
    /// Everything, without the kind's own update rules: actions and replication.
    Whole,
}

/// Who writes what, and how strictly.
#[derive(Clone, Copy)]
pub(crate) struct Writing<'a> {
    pub(crate) kind: &'a Arc<KindSpec>,
    pub(crate) namespace: &'a str,
    pub(crate) user: &'a User,
    pub(crate) part: Part,
    /// As the path says it.
    pub(crate) subresource: &'a str,
    pub(crate) dry_run: bool,
    pub(crate) strictness: Strictness,
    pub(crate) owner: Owner<'a>,
    /// The request that it is, for the audit journal; none for what the program itself writes.
    pub(crate) call: Option<&'a Call>,
}

/// How a write is noted in `metadata.managedFields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner<'a> {
    /// Not at all: what the program itself keeps.
    Nobody,
    /// As a change by this manager.
    Update(&'a str),
    /// The new object says it: it comes from an apply.
    Applied,
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object after it, in the row's form.
    pub(crate) json: Bytes,
    /// As stored; none after a dry run.
    pub(crate) object: Option<Object>,
    /// Whether anything changed.
    pub(crate) changed: bool,
    /// For the client, as `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// A body with the names of fields that stood twice in it.
pub(crate) type Body = super::codec::Parsed;

impl Core {
    /// Creates an object.
    pub(crate) async fn create(self: &Arc<Self>, w: Writing<'_>, body: Body) -> Result<Written, Status> {
        let kind = w.kind;
        let Body { mut value, duplicates } = body;
        let given = apply::take_managed_fields(&mut value);
        self.check_type(&mut value, kind)?;
        let warnings = self.bring_into_shape(&mut value, &w, duplicates)?;
        let named = meta::text(&value, "name").to_owned();
        let prefix = meta::text(&value, "generateName").to_owned();
        if !meta::text(&value, "resourceVersion").is_empty() {
            return Err(Status::unsorted(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        check_namespace(&value, kind, w.namespace)?;
        if named.is_empty() && prefix.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(&kind.group, &kind.kind, "", vec![cause]));
        }
        let attempts = if named.is_empty() { MAX_NAMES } else { 1 };
        for attempt in 1..=attempts {
            let name = if named.is_empty() {
                names::generate(&prefix)
            } else {
                named.clone()
            };
            // Who refuses it before it has a name knows the beginning of one.
            let known = if named.is_empty() { &prefix } else { &named };
            match self.create_named(&w, value.clone(), given.as_ref(), &name, known).await {
                Err(status) if status.reason == "AlreadyExists" && attempt < attempts => {}
                Err(status) => return Err(status),
                Ok(mut written) => {
                    written.warnings.splice(..0, warnings);
                    return Ok(written);
                }
            }
        }
        Err(Status::already_exists(&kind.group, &kind.plural, &named))
    }

    async fn create_named(
        self: &Arc<Self>,
        w: &Writing<'_>,
        mut value: Value,
        given: Option<&Value>,
        name: &str,
        known: &str,
    ) -> Result<Written, Status> {
        let kind = w.kind;
        let _turn = self.turn(kind).await;
        let now = meta::now();
        meta::begin(&mut value, kind, w.namespace, name, &now)?;
        if kind.status == StatusPart::Apart
            && !matches!(w.part, Part::Whole)
            && let Value::Object(map) = &mut value
        {
            map.remove("status");
        }
        if let Some(schema) = kind.schema.member("status")
            && let Some(default) = &schema.default
            && let Value::Object(map) = &mut value
        {
            shape::default(map.entry("status").or_insert_with(|| default.clone()), schema);
        }
        if let Some(prepare) = kind.prepare {
            prepare(&mut value, None, &now);
        }
        self.settle_names(kind, &mut value)?;
        let gate = self.gate.read().await;
        self.check_place(kind, w.namespace, name)?;
        let mut warnings = self.admit(w, Operation::Create, known, None, &mut value)?;
        self.give(w, &mut value, None, name)?;
        warnings.extend(self.validate(w, &value, None, name).await?);
        note_owner(w, None, &mut value, given)?;
        warnings.extend(warnings_of(w, &value, None));
        if w.dry_run {
            if self.read(&kind.key(w.namespace, name))?.is_some() {
                return Err(Status::already_exists(&kind.storage.group, &kind.plural, name));
            }
            return Ok(Written {
                json: encode(&value)?,
                object: None,
                changed: true,
                warnings,
            });
        }
        kind.keep(&mut value);
        let tx = Tx::new().put(kind.key(w.namespace, name), value, Expect::Absent);
        let tx = self.audited(tx, w, name, 201);
        // Handed over under the gate: whoever empties the namespace waits for the gate and then sees this object.
        let commit = self.store.enqueue(tx).await;
        drop(gate);
        let done = commit.await.map_err(|e| commit_status(e, kind, name))?;
        self.note_audited(&done);
        let object = done
            .objects
            .into_iter()
            .next()
            .ok_or_else(|| Status::internal("the store did not say what it stored"))?;
        self.after_write(kind, false).await;
        Ok(Written {
            json: self.shown(kind, &object)?,
            object: Some(object),
            changed: true,
            warnings,
        })
    }

    /// Changes an object. `change` gets the current object in the row's form and makes the new one, with what stood twice in its body; it may
    /// be called more than once. `conditional`: a lost race is the client's to solve.
    pub(crate) async fn update(
        self: &Arc<Self>,
        w: Writing<'_>,
        name: &str,
        conditional: bool,
        change: &mut (dyn FnMut(&Value) -> Result<Body, Status> + Send),
    ) -> Result<Written, Status> {
        for _ in 0..MAX_RACES {
            match self.update_once(&w, name, change).await {
                Err(Lost::Race) if !conditional => {}
                Err(Lost::Race) => break,
                Err(Lost::Status(status)) => return Err(*status),
                Ok(written) => return Ok(written),
            }
        }
        Err(Status::modified(&w.kind.storage.group, &w.kind.plural, name))
    }

    async fn update_once(
        self: &Arc<Self>,
        w: &Writing<'_>,
        name: &str,
        change: &mut (dyn FnMut(&Value) -> Result<Body, Status> + Send),
    ) -> Result<Written, Lost> {
        let kind = w.kind;
        let _turn = self.turn(kind).await;
        let key = kind.key(w.namespace, name);
        let Some(stored) = self.read(&key)? else {
            return Err(Status::not_found(&kind.storage.group, &kind.plural, name).into());
        };
        let mut current = parse(&stored)?;
        kind.show(&mut current);
        let Body { mut value, duplicates } = change(&current)?;
        let given = apply::take_managed_fields(&mut value);
        self.check_type(&mut value, kind)?;
        check_identity(&value, &current, w, name)?;
        let mut warnings = self.bring_into_shape(&mut value, w, duplicates)?;
        meta::check_kept(&value, &current, kind, name)?;
        let mut new = self.completed(w, value, &current, name, &mut warnings).await?;
        note_owner(w, Some(&current), &mut new, given.as_ref())?;
        warnings.extend(warnings_of(w, &new, Some(&current)));
        let leaves = meta::is_terminating(&current)
            && meta::finalizers(&new).is_empty()
            && !kind.empties()
            && grace_left(&current) == 0
            && !meta::finalizers(&current).is_empty();
        if new == current && !leaves {
            return Ok(Written {
                json: self.shown(kind, &stored)?,
                object: Some(stored),
                changed: false,
                warnings,
            });
        }
        if w.dry_run {
            return Ok(Written {
                json: encode(&new)?,
                object: None,
                changed: true,
                warnings,
            });
        }
        let expect = Expect::Revision(stored.revision);
        let tx = if leaves {
            Tx::new().delete(key, expect)
        } else {
            let mut kept = new.clone();
            kind.keep(&mut kept);
            Tx::new().put(key, kept, expect)
        };
        let done = match self.store.commit(self.audited(tx, w, name, 200)).await {
            Err(CommitError::Conflict { .. }) => return Err(Lost::Race),
            other => other.map_err(|e| commit_status(e, kind, name))?,
        };
        self.note_audited(&done);
        let object = done.objects.into_iter().next().unwrap_or(stored);
        self.after_write(kind, leaves).await;
        let json = if leaves {
            encode(&new)?
        } else {
            self.shown(kind, &object)?
        };
        Ok(Written {
            json,
            object: Some(object),
            changed: true,
            warnings,
        })
    }

    /// The new object as it will be stored, in the row's form: what the writer may not change is as it was, the rest is completed,
    /// admitted and valid.
    async fn completed(
        &self,
        w: &Writing<'_>,
        mut value: Value,
        current: &Value,
        name: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Status> {
        let kind = w.kind;
        match w.part {
            Part::Status => {
                value = with_status_of(current, value, kind);
                if let Some(prepare) = kind.special.prepare_status {
                    prepare(&mut value, Some(current), &meta::now());
                }
            }
            Part::Sub(part) => value = (part.take)(current, value),
            Part::Main | Part::Whole => {}
        }
        meta::carry(&mut value, current)?;
        if matches!(w.part, Part::Main)
            && kind.has_status()
            && let Value::Object(map) = &mut value
        {
            match current.get("status") {
                Some(s) => map.insert("status".to_owned(), s.clone()),
                None => map.remove("status"),
            };
        }
        if matches!(w.part, Part::Main)
            && let Some(prepare) = kind.prepare
        {
            prepare(&mut value, Some(current), &meta::now());
            self.settle_names(kind, &mut value)?;
        }
        warnings.extend(self.admit(w, Operation::Update, name, Some(current), &mut value)?);
        meta::carry(&mut value, current)?;
        if matches!(w.part, Part::Main) {
            self.give(w, &mut value, Some(current), name)?;
        }
        // What an action does is no change of what is wanted: a pod that gets its node is the same pod.
        let counts = match w.part {
            Part::Main | Part::Sub(_) => true,
            Part::Whole => w.subresource.is_empty(),
            Part::Status => false,
        };
        if kind.generation && counts && meta::desired_differs(&value, current, kind) {
            let next = meta::generation(current) + 1;
            meta::of_mut(&mut value)?.insert("generation".to_owned(), next.into());
        }
        if value != *current {
            warnings.extend(self.validate(w, &value, Some(current), name).await?);
        }
        Ok(value)
    }

    /// One object from the store.
    pub(crate) fn read(&self, key: &ObjectKey) -> Result<Option<Object>, Status> {
        self.store.get(key).map_err(store_status)
    }

    /// The bytes of an object in a row's form: the stored ones when that is the form.
    pub(crate) fn shown(&self, kind: &KindSpec, object: &Object) -> Result<Bytes, Status> {
        if kind.is_stored_form(object.revision) {
            return Ok(object.json.clone());
        }
        let mut value = parse(object)?;
        kind.show(&mut value);
        encode(&value)
    }

    /// The body must say the type that the path says; of a built-in kind it may leave out either half of it.
    pub(crate) fn check_type(&self, value: &mut Value, kind: &KindSpec) -> Result<(), Status> {
        if value.is_null() && !kind.custom {
            *value = Value::Object(serde_json::Map::new());
        }
        let Some(map) = value.as_object() else {
            return Err(Status::bad_request("the body must be an object"));
        };
        let said = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, name) = (said("apiVersion"), said("kind"));
        if kind.custom && (api_version.is_empty() || name.is_empty()) {
            return Err(Status::bad_request(format!(
                "Object 'Kind' or 'apiVersion' is missing in the body of a {}",
                kind.kind
            )));
        }
        let other = |said: &str, own: &str| !said.is_empty() && said != own;
        if other(api_version, &kind.api_version()) || other(name, &kind.kind) {
            return Err(Status::bad_request(format!(
                "{name} in version {api_version:?} cannot be handled as a {}: expected {}, Kind={}",
                kind.kind,
                kind.api_version(),
                kind.kind
            )));
        }
        Ok(())
    }

    /// Decodes: types, unknown fields, defaults. Returns warnings, or refuses where the client asked for strictness.
    pub(crate) fn bring_into_shape(
        &self,
        value: &mut Value,
        w: &Writing<'_>,
        duplicates: Vec<String>,
    ) -> Result<Vec<String>, Status> {
        let kind = w.kind;
        let metadata = types::object_meta();
        let mut unknown = Vec::new();
        if let Some(m) = value.get_mut("metadata") {
            shape::tidy(m, &metadata);
        }
        let mistyped = if kind.custom {
            value
                .get("metadata")
                .and_then(|m| shape::mistyped(m, &metadata))
                .map(|(path, wanted, found)| (format!("metadata.{path}"), wanted, found))
        } else {
            shape::tidy(value, &kind.schema);
            shape::mistyped(value, &kind.schema)
        };
        let malformed = |(path, wanted, found): (String, &str, String)| {
            Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal {found} into {path} of type {wanted}",
                kind.kind, &*kind.version, kind.kind
            ))
        };
        if let Some(mistyped) = mistyped {
            return Err(malformed(mistyped));
        }
        if kind.custom {
            embedded::decode(value, &kind.schema, "", &mut unknown).map_err(|why| {
                Status::bad_request(format!(
                    "{} in version {:?} cannot be handled as a {}: {why}",
                    kind.kind, &*kind.version, kind.kind
                ))
            })?;
        }
        shape::prune(value, &kind.schema, true, &mut unknown);
        if custom::is_definition(kind) {
            definitions::decode(value, &mut unknown).map_err(malformed)?;
        }
        unknown.sort();
        let problems = unknown
            .iter()
            .map(|f| format!("unknown field {f:?}"))
            .chain(duplicates.iter().map(|f| format!("duplicate field {f:?}")));
        let warnings = match w.strictness {
            Strictness::Ignore => Vec::new(),
            Strictness::Warn => problems.collect(),
            Strictness::Strict => {
                let list: Vec<String> = problems.collect();
                if !list.is_empty() {
                    return Err(Status::bad_request(format!(
                        "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                        kind.kind,
                        &*kind.version,
                        kind.kind,
                        list.join(", ")
                    )));
                }
                Vec::new()
            }
        };
        if !matches!(w.part, Part::Whole) || kind.custom {
            shape::default(value, &kind.schema);
        }
        if let Value::Object(map) = value {
            map.insert("apiVersion".to_owned(), kind.api_version().into());
            map.insert("kind".to_owned(), (&*kind.kind).into());
        }
        Ok(warnings)
    }

    /// Asks the admissions; what they have to say to who writes.
    pub(crate) fn admit(
        &self,
        w: &Writing<'_>,
        op: Operation,
        name: &str,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Vec<String>, Status> {
        let warnings = Warnings::default();
        let context = AdmitContext {
            op,
            kind: w.kind,
            namespace: w.namespace,
            name,
            subresource: w.subresource,
            user: w.user,
            dry_run: w.dry_run,
            store: &self.store,
            warnings: &warnings,
        };
        self.admissions.admit(&context, old, new)?;
        Ok(warnings.into_inner())
    }

    /// The turn to give what only one object can have, where the kind is given such: held until what was given is committed.
    async fn turn(&self, kind: &KindSpec) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match kind.special.give {
            Some(_) => Some(self.giving.lock().await),
            None => None,
        }
    }

    /// Gives an object what only one can have.
    fn give(&self, w: &Writing<'_>, value: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        let kind = w.kind;
        let Some(give) = kind.special.give.filter(|_| !matches!(w.part, Part::Whole)) else {
            return Ok(());
        };
        let mut giver = Giver::new(&self.store, &self.service_ranges, kind.key(w.namespace, name));
        give(value, old, &mut giver).map_err(|gave| match gave {
            Gave::Wrong(causes) => Status::invalid(&kind.storage.group, &kind.kind, name, causes),
            Gave::Status(status) => *status,
        })
    }

    /// Refuses what is wrong; returns warnings.
    async fn validate(
        &self,
        w: &Writing<'_>,
        value: &Value,
        old: Option<&Value>,
        name: &str,
    ) -> Result<Vec<String>, Status> {
        let kind = w.kind;
        let mut causes = Vec::new();
        meta::check(value, old, kind, &mut causes);
        if kind.custom {
            custom::check(kind, value, old, w.part, &mut causes);
        }
        if !matches!(w.part, Part::Whole) {
            if !kind.custom {
                limits::check(value, &kind.schema, &mut causes);
            }
            let validate = match w.part {
                Part::Status => kind.special.validate_status,
                Part::Sub(part) => Some(part.validate),
                Part::Main | Part::Whole => kind.validate,
            };
            if let Some(validate) = validate {
                validate(value, old, &mut causes);
            }
        }
        let warnings = self.check_rules(w, value, old, &mut causes).await?;
        if causes.is_empty() {
            return Ok(warnings);
        }
        Err(Status::invalid(&kind.storage.group, &kind.kind, name, causes))
    }

    /// Whether there may be something new: the namespace is there and stays, the definition is not going away.
    fn check_place(&self, kind: &KindSpec, namespace: &str, name: &str) -> Result<(), Status> {
        if kind.custom {
            // The request may have found the row in a table that is no longer.
            if self.registry().get(&kind.group, &kind.version, &kind.plural).is_none() {
                return Err(Status::no_such_resource());
            }
            if self.is_definition_leaving(kind)? {
                let why = "create not allowed while custom resource definition is terminating";
                return Err(Status::forbidden(&kind.group, &kind.plural, name, why));
            }
        }
        if !kind.namespaced {
            return Ok(());
        }
        let key = ObjectKey::new("", "namespaces", "", namespace);
        let Some(object) = self.read(&key)? else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if meta::is_terminating(&parse(&object)?) {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = Status::forbidden(&kind.storage.group, &kind.plural, name, &why);
            if let Some(details) = &mut status.details {
                details.causes.push(Cause {
                    reason: "NamespaceTerminating".to_owned(),
                    message: format!("namespace {namespace} is being terminated"),
                    field: "metadata.namespace".to_owned(),
                });
            }
            return Err(status);
        }
        Ok(())
    }
}

/// Writes down who owns what after the write. `given`: the `managedFields` that came with it.
pub(crate) fn note_owner(
    w: &Writing<'_>,
    current: Option<&Value>,
    new: &mut Value,
    given: Option<&Value>,
) -> Result<(), Status> {
    match w.owner {
        Owner::Nobody => Ok(()),
        Owner::Applied => apply::put_managed_fields(new, given),
        Owner::Update(name) => {
            let manager = Manager {
                name,
                api_version: &w.kind.api_version(),
                subresource: w.subresource,
                now: &meta::now(),
            };
            // What a new object has as its status is nobody's where the status is written apart.
            let apart = current.is_none() && w.kind.has_status();
            let status = match new {
                Value::Object(map) if apart => map.remove("status"),
                _ => None,
            };
            let noted = apply::record_update(current, new, given, manager, &w.kind.schema);
            if let (Some(status), Value::Object(map)) = (status, new) {
                map.insert("status".to_owned(), status);
            }
            noted
        }
    }
}

/// A write that did not go through.
enum Lost {
    /// Somebody was faster.
    Race,
    Status(Box<Status>),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// `current` with the status of `value`; whoever writes the status of a built-in kind also writes labels and annotations.
fn with_status_of(current: &Value, mut value: Value, kind: &KindSpec) -> Value {
    let mut out = current.clone();
    let reported = !kind.custom;
    if let (Value::Object(map), Value::Object(new)) = (&mut out, &mut value) {
        match new.remove("status") {
            Some(s) => map.insert("status".to_owned(), s),
            None => map.remove("status"),
        };
        if reported && let Some(m) = new.remove("metadata") {
            map.insert("metadata".to_owned(), m);
        }
    }
    out
}

pub(crate) fn check_namespace(value: &Value, kind: &KindSpec, namespace: &str) -> Result<(), Status> {
    let said = meta::text(value, "namespace");
    if said.is_empty() || !kind.namespaced || said == namespace {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the namespace of the provided object does not match the namespace sent on the request ({said:?} and {namespace:?})"
    )))
}

fn check_identity(value: &Value, current: &Value, w: &Writing<'_>, name: &str) -> Result<(), Status> {
    let kind = w.kind;
    let said = meta::text(value, "name");
    if said != name && !matches!(w.part, Part::Whole) {
        return Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    check_namespace(value, kind, w.namespace)?;
    let conflict = |why: &str| Err(Status::conflict(&kind.storage.group, &kind.plural, name, why));
    let uid = meta::text(value, "uid");
    let have = meta::text(current, "uid");
    if !uid.is_empty() && uid != have {
        return conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
        ));
    }
    let version = meta::text(value, "resourceVersion");
    if matches!(version, "" | "0") {
        return Ok(());
    }
    if version.parse::<u64>().is_err() {
        return Err(Status::unsorted(format!(
            "invalid resource version {version:?}: it is not a number"
        )));
    }
    if version != meta::text(current, "resourceVersion") {
        return Err(Status::modified(&kind.storage.group, &kind.plural, name));
    }
    Ok(())
}

/// What the kind has to tell its writer.
fn warnings_of(w: &Writing<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if matches!(w.part, Part::Main)
        && let Some(warn) = w.kind.special.warn
    {
        warn(new, old, &mut out);
    }
    out
}

/// Parses what the store holds.
pub(crate) fn parse(object: &Object) -> Result<Value, Status> {
    object
        .value()
        .map_err(|_| Status::internal("a stored object is not readable"))
}

/// Encodes an answer.
pub(crate) fn encode(value: &Value) -> Result<Bytes, Status> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|_| Status::internal("an object cannot be encoded"))
}

/// What a failed commit means to a client.
pub(crate) fn commit_status(error: CommitError, kind: &KindSpec, name: &str) -> Status {
    match error {
        CommitError::Conflict { .. } | CommitError::UidConflict { .. } | CommitError::KvConflict { .. } => {
            Status::modified(&kind.storage.group, &kind.plural, name)
        }
        CommitError::NotFound(_) => Status::not_found(&kind.storage.group, &kind.plural, name),
        CommitError::Exists(_) => Status::already_exists(&kind.storage.group, &kind.plural, name),
        CommitError::Invalid { reason, .. } => Status::bad_request(format!("the object cannot be stored: {reason}")),
        CommitError::Full => Status::disk_full(),
        CommitError::Overloaded => Status::too_many_requests(1),
        CommitError::Closed => Status::unavailable("the server is shutting down"),
        CommitError::NoSealKey(_) => {
            Status::unavailable("secrets cannot be stored: the server has no key to seal them with")
        }
        CommitError::Corrupt(_) | CommitError::Io(_) => {
            tracing::error!(error = %error, "A write failed.");
            Status::internal("the store cannot be written")
        }
    }
}

/// What a failed read means to a client.
pub(crate) fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Gone(gone) => {
            Status::expired(format!("too old resource version: {} ({})", gone.asked, gone.newest))
        }
        StoreError::Closed => Status::unavailable("the server is shutting down"),
        StoreError::Full => Status::disk_full(),
        other => {
            tracing::error!(error = %other, "A read failed.");
            Status::internal("the store cannot be read")
        }
    }
}

/// Deletes without conditions or questions, for emptying: one transaction for many.
pub(crate) fn delete_all(objects: &[Object]) -> Tx {
    Tx::from(
        objects
            .iter()
            .map(|o| Op::Delete {
                key: o.key.clone(),
                expect: Expect::Revision(o.revision),
                uid: None,
            })
            .collect::<Vec<_>>(),
    )
}
