//! Keys and certificates over their life: made, read back, renewed, damaged; and what a hostile request can and cannot do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;

const DAY_MS: u64 = 86_400_000;
/// 2027-01-15: a clock that is right.
const NOW: u64 = 1_799_971_200_000;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn profile(node: &str) -> NodeProfile<'_> {
    NodeProfile {
        node,
        trust_domain: "kurator.local",
        valid: NODE_VALID,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_ca_is_made_once_and_its_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("a/pki");
    let made = HubCa::load_or_create(&pki, NOW).unwrap();
    let read = HubCa::load_or_create(&pki, NOW + DAY_MS).unwrap();
    assert_eq!(made.pin(), read.pin());
    assert_eq!(made.cert(), read.cert());
    assert_eq!(Pin::of(made.cert()).unwrap(), made.pin());
    assert_eq!(
        (mode(&pki.join("ca.key")), mode(&pki.join("ca.crt")), mode(&pki)),
        (0o600, 0o600, 0o700)
    );
    assert_eq!(fs::read_dir(&pki).unwrap().count(), 2, "no temporary file is left");
    assert!(!format!("{made:?}").contains("PRIVATE"));
}

#[test]
fn a_lost_key_is_not_replaced_and_a_lost_certificate_is() {
    let dir = tempfile::tempdir().unwrap();
    let made = HubCa::load_or_create(dir.path(), NOW).unwrap();
    // The power went between the two files of the first start.
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    assert_eq!(HubCa::load_or_create(dir.path(), NOW).unwrap().pin(), made.pin());
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = HubCa::load_or_create(dir.path(), NOW).unwrap_err();
    assert!(error.to_string().contains("put the key back"), "{error}");
    assert!(!dir.path().join("ca.key").exists());
    // Another CA's key.
    let other = tempfile::tempdir().unwrap();
    HubCa::load_or_create(other.path(), NOW).unwrap();
    fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    let error = HubCa::load_or_create(dir.path(), NOW).unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
}

#[test]
fn only_the_public_key_comes_from_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["hub.kurator.internal".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, ADMIN_GROUP);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let greedy = params.serialize_request(&key).unwrap();
    let issued = ca.issue_node(greedy.der(), &profile("gw-1"), NOW).unwrap();
    let info = &issued.info;
    assert_eq!(info.common_name, "system:node:gw-1");
    assert_eq!(info.organizations, ["system:nodes"]);
    assert_eq!(info.sans, [San::Uri("spiffe://kurator.local/node/gw-1".to_owned())]);
    assert_eq!(info.not_before_ms, NOW - 300_000);
    assert_eq!(info.not_after_ms, NOW + 30 * DAY_MS);
    assert_eq!(info.serial.len(), 32, "128 bits: {}", info.serial);
    let der: &[u8] = &issued.chain[0];
    let has = |needle: &[u8]| der.windows(needle.len()).any(|w| w == needle);
    assert!(!has(b"hub.kurator.internal") && !has(b"system:masters"));
    assert!(!has(&[0x2b, 6, 1, 5, 5, 7, 3, 1]), "it may not serve");
    assert!(has(&[0x2b, 6, 1, 5, 5, 7, 3, 2]), "it may be a client");
    let again = ca.issue_node(greedy.der(), &profile("gw-1"), NOW).unwrap();
    assert_ne!(again.info.serial, info.serial);
}

#[test]
fn a_node_key_comes_back_and_its_certificate_is_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let key = NodeKey::generate().unwrap();
    let read = NodeKey::from_pem(&key.to_pem()).unwrap();
    let issued = ca
        .issue_node(&read.request().unwrap(), &profile("gw-1.site-a"), NOW)
        .unwrap();
    assert_eq!(issued.info.pin, key.pin());
    assert_eq!(Cert::parse_pem(&issued.chain_pem).unwrap(), issued.info);
    assert_eq!(format!("{key:?}"), "NodeKey(..)");
    let credential = Credential {
        chain_pem: issued.chain_pem,
        key_pem: key.to_pem(),
    };
    assert!(!format!("{credential:?}").contains("PRIVATE"));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(NodeKey::from_pem(&p384.serialize_pem()).is_err());
}

#[test]
fn a_bad_request_is_refused_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let good = NodeKey::generate().unwrap().request().unwrap();
    let issue = |csr: &[u8]| ca.issue_node(csr, &profile("gw-1"), NOW);
    assert!(issue(&good).is_ok());
    assert!(matches!(issue(&vec![0x30; MAX_CSR + 1]), Err(PkiError::Request(_))));
    assert!(
        matches!(issue(&[&good[..], b"x"].concat()), Err(PkiError::Request(_))),
        "bytes behind it"
    );
    for cut in 0..good.len() {
        assert!(issue(&good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        assert!(
            issue(&flipped).is_err(),
            "one bit of byte {at} is another request, and unsigned"
        );
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other = rcgen::CertificateParams::default().serialize_request(&p384).unwrap();
    assert!(
        matches!(issue(other.der()), Err(PkiError::Request(_))),
        "other keys than P-256"
    );
}

#[test]
fn bad_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let csr = NodeKey::generate().unwrap().request().unwrap();
    for bad in [
        "",
        "GW",
        "a b",
        "-a",
        "a-",
        "a..b",
        "a/b",
        "ü",
        "../x",
        &"a".repeat(64),
        &"a.".repeat(200),
    ] {
        assert!(
            matches!(ca.issue_node(&csr, &profile(bad), NOW), Err(PkiError::Name(_))),
            "{bad:?}"
        );
        let other = NodeProfile {
            trust_domain: bad,
            ..profile("gw-1")
        };
        assert!(
            matches!(ca.issue_node(&csr, &other, NOW), Err(PkiError::Name(_))),
            "{bad:?}"
        );
    }
    assert!(
        ca.issue_admin("system:node:gw-1", NOW).is_err(),
        "an administrator is no gateway"
    );
    assert!(matches!(
        ca.issue_server(&names(&["not a name"]), NOW),
        Err(PkiError::Name(_))
    ));
}

#[test]
fn the_server_certificate_is_kept_while_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let asked = names(&["hub.example.com", "192.0.2.7", "2001:db8::1"]);
    let (first, new) = ca.load_or_issue_server(dir.path(), &asked, NOW).unwrap();
    assert!(new);
    let info = first.info().unwrap();
    assert_eq!(info.sans.len(), 4);
    assert!(info.sans.contains(&San::Dns(HUB_SERVER_NAME.to_owned())));
    assert!(info.sans.contains(&San::Ip("192.0.2.7".parse().unwrap())));
    assert_eq!(
        first.chain().unwrap().last(),
        Some(ca.cert()),
        "a joining gateway sees the CA"
    );
    assert_eq!(
        (
            mode(&dir.path().join("server.key")),
            mode(&dir.path().join("server.crt"))
        ),
        (0o600, 0o600)
    );

    let again = |asked: &[String], now| ca.load_or_issue_server(dir.path(), asked, now).unwrap().1;
    assert!(
        !again(&asked, NOW + 200 * DAY_MS),
        "more than a third of its life is left"
    );
    let turned = names(&["2001:db8::1", "HUB.example.com", "192.0.2.7"]);
    assert!(!again(&turned, NOW), "order and case do not matter");
    assert!(again(&asked, NOW + 300 * DAY_MS), "less than a third is left");
    assert!(again(&names(&["hub.example.com"]), NOW), "the names changed");
    let key = || fs::read_to_string(dir.path().join("server.key")).unwrap();
    assert_eq!(key(), first.key_pem, "a new certificate, the same key");
    fs::write(dir.path().join("server.key"), "torn").unwrap();
    assert!(again(&names(&["hub.example.com"]), NOW), "damaged");
    assert_ne!(key(), first.key_pem);
    let other = tempfile::tempdir().unwrap();
    let other_ca = HubCa::load_or_create(other.path(), NOW).unwrap();
    for file in ["server.crt", "server.key"] {
        fs::copy(dir.path().join(file), other.path().join(file)).unwrap();
    }
    assert!(
        other_ca
            .load_or_issue_server(other.path(), &names(&["hub.example.com"]), NOW)
            .unwrap()
            .1,
        "another CA's"
    );
}

#[test]
fn a_hub_in_1970_signs_for_a_time_that_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), 0).unwrap();
    let csr = NodeKey::generate().unwrap().request().unwrap();
    let issued = ca.issue_node(&csr, &profile("gw-1"), 5_000).unwrap();
    assert!(issued.info.not_after_ms > BUILD_FLOOR_SECS * 1000 + 29 * DAY_MS);
    let (_, new) = ca.load_or_issue_server(dir.path(), &[], 0).unwrap();
    assert!(new && !ca.load_or_issue_server(dir.path(), &[], 0).unwrap().1);
}

#[test]
fn life_is_configurable() {
    let dir = tempfile::tempdir().unwrap();
    let ca = HubCa::load_or_create(dir.path(), NOW).unwrap();
    let csr = NodeKey::generate().unwrap().request().unwrap();
    let short = NodeProfile {
        valid: Duration::from_secs(60),
        ..profile("gw-1")
    };
    assert_eq!(
        ca.issue_node(&csr, &short, NOW).unwrap().info.not_after_ms,
        NOW + 60_000
    );
}

#[test]
fn the_local_ca_needs_no_clock_and_follows_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let asked = names(&["localhost", "127.0.0.1"]);
    let first = LocalCa::load_or_create(dir.path(), &asked).unwrap();
    let info = first.server().info().unwrap();
    assert_eq!((info.not_before_ms, info.not_after_ms), (0, 253_402_300_799_000));
    let admin = first.admin().info().unwrap();
    assert_eq!(
        (admin.common_name.as_str(), admin.organizations),
        ("kurator-edge-admin", vec![ADMIN_GROUP.to_owned()])
    );
    let second = LocalCa::load_or_create(dir.path(), &asked).unwrap();
    assert_eq!(first.server().chain_pem, second.server().chain_pem);
    assert_eq!(first.admin().chain_pem, second.admin().chain_pem);
    let third = LocalCa::load_or_create(dir.path(), &names(&["localhost", "127.0.0.1", "10.0.0.7"])).unwrap();
    assert_ne!(first.server().chain_pem, third.server().chain_pem);
    assert_eq!(first.cert(), third.cert());
    for file in ["ca.crt", "ca.key", "api.crt", "api.key", "admin.crt", "admin.key"] {
        assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
    }
    // A certificate of somebody else's CA in our place is not served.
    let other = tempfile::tempdir().unwrap();
    LocalCa::load_or_create(other.path(), &asked).unwrap();
    for file in ["admin.crt", "admin.key"] {
        fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    let fourth = LocalCa::load_or_create(dir.path(), &asked).unwrap();
    assert_ne!(
        fs::read(other.path().join("admin.crt")).unwrap(),
        fourth.admin().chain_pem.as_bytes()
    );
}

#[test]
fn a_kubeconfig_holds_what_kubectl_needs() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let ca = LocalCa::load_or_create(dir.path(), &names(&["127.0.0.1"])).unwrap();
    let path = dir.path().join("edge.kubeconfig");
    let ca_pem = ca.cert_pem();
    let config = Kubeconfig {
        name: "edge \"quoted\": yes",
        server: "https://127.0.0.1:10550",
        ca_pem: &ca_pem,
        client: ca.admin(),
    };
    write_kubeconfig(&path, &config).unwrap();
    assert_eq!(mode(&path), 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let data = |key: &str| {
        let line = text
            .lines()
            .find_map(|l| l.trim().strip_prefix(&format!("{key}: ")))
            .unwrap();
        base64::engine::general_purpose::STANDARD.decode(line).unwrap()
    };
    assert_eq!(data("client-key-data"), ca.admin().key_pem.as_bytes());
    assert_eq!(data("client-certificate-data"), ca.admin().chain_pem.as_bytes());
    assert_eq!(data("certificate-authority-data"), ca_pem.as_bytes());
    assert!(text.contains("server: \"https://127.0.0.1:10550\""));
    assert_eq!(text.matches(r#""edge \"quoted\": yes""#).count(), 6);
}

#[test]
fn files_are_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    write_atomic(&path, b"one", 0o644).unwrap();
    write_atomic(&path, b"two", 0o600).unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o600));
    // A folder in its place: the rename fails, and nothing is left behind.
    fs::create_dir(dir.path().join("g")).unwrap();
    assert!(matches!(
        write_atomic(&dir.path().join("g"), b"x", 0o600),
        Err(PkiError::Io { .. })
    ));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
