//! A change of identity cut at every step.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::pki::{HubCa, NODE_VALID, NodeProfile};

const NOW: u64 = 1_799_971_200_000;

struct Hub(HubCa);

impl Hub {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(HubCa::load_or_create(dir.path(), NOW).unwrap())
    }

    fn admit(&self, node: &str) -> Credential {
        let key = NodeKey::generate().unwrap();
        let profile = NodeProfile {
            node,
            trust_domain: "kurator.local",
            valid: NODE_VALID,
        };
        let cert = self.0.issue_node(&key.request().unwrap(), &profile, NOW).unwrap();
        Credential::from_der(&cert.chain, &key)
    }
}

/// The three files, as a program without knowledge of the staged one reads them.
fn plain(pki: &Path) -> [String; 3] {
    [KEY, CHAIN, CA].map(|name| fs::read_to_string(pki.join(name)).unwrap())
}

fn files(identity: &Identity) -> [String; 3] {
    [
        identity.credential.key_pem.clone(),
        identity.credential.chain_pem.clone(),
        identity.ca_pem.clone(),
    ]
}

fn names(pki: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(pki)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_cut_after_any_step_leaves_the_old_identity_or_the_new_one_whole() {
    let (old_hub, new_hub) = (Hub::new(), Hub::new());
    for ca_changes in [false, true] {
        let hub = if ca_changes { &new_hub } else { &old_hub };
        let fresh = hub.admit("gw-1");
        let change = Staged {
            credential: fresh.clone(),
            ca_pem: ca_changes.then(|| new_hub.0.cert_pem()),
        };
        let count = change.steps(Path::new("")).len();
        for cut in 0..=count {
            // The recovery itself may be cut too.
            for cut_again in 0..count {
                // Nothing to recover from before the first step and after the last.
                if cut_again > 0 && (cut == 0 || cut == count) {
                    continue;
                }
                let dir = tempfile::tempdir().unwrap();
                let pki = dir.path();
                let old = old_hub.admit("gw-1");
                install_identity(pki, &old, Some(&old_hub.0.cert_pem())).unwrap();
                let held = if cut == 0 {
                    [old.key_pem, old.chain_pem, old_hub.0.cert_pem()]
                } else {
                    [fresh.key_pem.clone(), fresh.chain_pem.clone(), hub.0.cert_pem()]
                };
                change.steps(pki)[..cut].iter().for_each(|step| step.take().unwrap());
                // What the step that was cut had begun to write.
                fs::write(pki.join(".node.key.00000000deadbeef"), "-----BEGIN PRIV").unwrap();
                fs::write(pki.join("seal.key"), "another's").unwrap();
                assert_eq!(files(&load_identity(pki).unwrap()), held, "cut after {cut}");
                if let Some(staged) = staged(pki).unwrap() {
                    let steps = staged.finishing(pki);
                    steps.iter().take(cut_again).for_each(|step| step.take().unwrap());
                }
                assert_eq!(files(&load_identity(pki).unwrap()), held, "{cut}, {cut_again}");
                recover_identity(pki).unwrap();
                recover_identity(pki).unwrap();
                assert_eq!(files(&load_identity(pki).unwrap()), held, "{cut}, {cut_again}");
                assert_eq!(plain(pki), held, "{cut}, {cut_again}");
                assert_eq!(names(pki), [CA, CHAIN, KEY, "seal.key"], "{cut}, {cut_again}");
            }
        }
    }
}

#[test]
fn a_first_identity_is_there_whole_or_not_at_all() {
    let hub = Hub::new();
    let credential = hub.admit("gw-1");
    let change = Staged {
        credential: credential.clone(),
        ca_pem: Some(hub.0.cert_pem()),
    };
    for cut in 0..=change.steps(Path::new("")).len() {
        let dir = tempfile::tempdir().unwrap();
        change.steps(dir.path())[..cut].iter().for_each(|s| s.take().unwrap());
        let found = load_identity(dir.path());
        assert_eq!(found.is_ok(), cut > 0, "cut after {cut}");
        recover_identity(dir.path()).unwrap();
        assert_eq!(load_identity(dir.path()).is_ok(), cut > 0, "cut after {cut}");
    }
    // A machine that never joined has nothing to recover, and recovering makes nothing.
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("pki");
    recover_identity(&nowhere).unwrap();
    assert!(!nowhere.exists());
}

#[test]
fn a_renewal_over_an_interrupted_join_keeps_the_joins_ca() {
    let (before, after) = (Hub::new(), Hub::new());
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path();
    install_identity(pki, &before.admit("gw-1"), Some(&before.0.cert_pem())).unwrap();
    let joined = Staged {
        credential: after.admit("gw-1"),
        ca_pem: Some(after.0.cert_pem()),
    };
    joined.steps(pki)[0].take().unwrap();
    let renewed = after.admit("gw-1");
    install_identity(pki, &renewed, None).unwrap();
    assert_eq!(plain(pki), [renewed.key_pem, renewed.chain_pem, after.0.cert_pem()]);
}

#[test]
fn half_a_staged_identity_never_holds_and_is_cleared_away() {
    let hub = Hub::new();
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path();
    let old = hub.admit("gw-1");
    install_identity(pki, &old, Some(&hub.0.cert_pem())).unwrap();
    let held = plain(pki);
    let (one, two) = (hub.admit("gw-1"), hub.admit("gw-1"));
    let whole = Staged {
        credential: one.clone(),
        ca_pem: None,
    }
    .text();
    let mixed = Staged {
        credential: Credential {
            chain_pem: one.chain_pem,
            key_pem: two.key_pem,
        },
        ca_pem: None,
    }
    .text();
    let bad_ca = format!("{whole}{CA_FOLLOWS}garbage");
    for damaged in [
        "",
        &whole[..whole.len() / 2],
        &whole[whole.len() / 2..],
        &mixed,
        &bad_ca,
    ] {
        fs::write(pki.join(STAGED), damaged).unwrap();
        assert_eq!(files(&load_identity(pki).unwrap()), held);
        recover_identity(pki).unwrap();
        assert_eq!((plain(pki), names(pki).len()), (held.clone(), 3));
    }
}

#[test]
fn a_certificate_of_another_key_is_neither_installed_nor_loaded() {
    let hub = Hub::new();
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let (one, two) = (hub.admit("gw-1"), hub.admit("gw-1"));
    let mixed = Credential {
        chain_pem: one.chain_pem.clone(),
        key_pem: two.key_pem.clone(),
    };
    assert!(install_identity(&pki, &mixed, Some(&hub.0.cert_pem())).is_err());
    assert!(!pki.exists());
    install_identity(&pki, &one, Some(&hub.0.cert_pem())).unwrap();
    fs::write(pki.join(KEY), &two.key_pem).unwrap();
    let e = load_identity(&pki).unwrap_err().to_string();
    assert!(e.contains("not the key"), "{e}");
}

#[test]
fn keys_are_their_owners_alone_also_on_their_way() {
    let hub = Hub::new();
    let dir = tempfile::tempdir().unwrap();
    let change = Staged {
        credential: hub.admit("gw-1"),
        ca_pem: None,
    };
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    let steps = change.steps(dir.path());
    steps[..3].iter().for_each(|s| s.take().unwrap());
    assert_eq!((mode(STAGED), mode(KEY), mode(CHAIN)), (0o600, 0o600, 0o644));
}

#[test]
fn readers_see_one_identity_while_writers_change_it() {
    let hub = Hub::new();
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path();
    let identities: Vec<Credential> = (0..6).map(|_| hub.admit("gw-1")).collect();
    install_identity(pki, &identities[0], Some(&hub.0.cert_pem())).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = identities
            .iter()
            .map(|identity| scope.spawn(move || install_identity(pki, identity, None).unwrap()))
            .collect();
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            load_identity(pki).unwrap();
        }
    });
    assert_eq!(names(pki), [CA, CHAIN, KEY]);
    load_identity(pki).unwrap();
}
