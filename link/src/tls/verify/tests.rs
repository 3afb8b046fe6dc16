//! Whom a gateway takes for its hub, at what time.

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::pki::{HubCa, NodeKey, NodeProfile, SERVER_VALID};

const DAY: u64 = 86_400;
/// 2027-01-15, seconds.
const NOW: u64 = 1_799_971_200;

fn ca() -> HubCa {
    let dir = tempfile::tempdir().unwrap();
    HubCa::load_or_create(dir.path(), NOW * 1000).unwrap()
}

fn server(ca: &HubCa, at: u64) -> Vec<CertificateDer<'static>> {
    ca.issue_server(&[], at * 1000).unwrap().chain().unwrap()
}

fn verify(trust: Trust, chain: &[CertificateDer<'_>], clock: u64) -> Result<TimeFloor, Verdict> {
    verify_with(trust, chain, clock, TimeFloor::default())
}

fn verify_with(trust: Trust, chain: &[CertificateDer<'_>], clock: u64, floor: TimeFloor) -> Result<TimeFloor, Verdict> {
    let verifier = HubVerifier::new(trust, floor.clone(), daemon::tls::provider());
    let name = ServerName::try_from("whatever.was.dialled").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock));
    match verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now) {
        Ok(_) => Ok(floor),
        Err(e) => Err(verifier.verdict().unwrap_or_else(|| panic!("no verdict for {e}"))),
    }
}

#[test]
fn pin_and_ca_know_the_same_hub() {
    let ca = ca();
    let chain = server(&ca, NOW);
    assert!(verify(Trust::Pin(ca.pin()), &chain, NOW).is_ok());
    assert!(verify(Trust::Ca(ca.cert().clone()), &chain, NOW).is_ok());
    assert!(
        verify(Trust::Ca(ca.cert().clone()), &chain[..1], NOW).is_ok(),
        "the CA need not be sent again"
    );
}

#[test]
fn another_hub_is_known_as_another() {
    let (ca, other) = (self::ca(), self::ca());
    let chain = server(&other, NOW);
    let seen = Some(other.pin());
    assert_eq!(
        verify(Trust::Pin(ca.pin()), &chain, NOW).unwrap_err(),
        Verdict::OtherCa {
            expected: Some(ca.pin()),
            seen
        }
    );
    assert_eq!(
        verify(Trust::Ca(ca.cert().clone()), &chain, NOW).unwrap_err(),
        Verdict::OtherCa {
            expected: Some(ca.pin()),
            seen
        }
    );
    // The right CA shown beside a certificate that it did not sign.
    let mixed = [chain[0].clone(), ca.cert().clone()];
    assert!(matches!(
        verify(Trust::Pin(ca.pin()), &mixed, NOW).unwrap_err(),
        Verdict::OtherCa { .. }
    ));
    // The pinned CA is not shown at all.
    assert!(matches!(
        verify(Trust::Pin(ca.pin()), &chain[..1], NOW).unwrap_err(),
        Verdict::OtherCa { seen: None, .. }
    ));
}

#[test]
fn a_gateway_of_the_same_ca_is_no_hub() {
    let ca = ca();
    let key = NodeKey::generate().unwrap();
    let profile = NodeProfile {
        node: "gw-1",
        trust_domain: "t",
        valid: SERVER_VALID,
    };
    let node = ca.issue_node(&key.request().unwrap(), &profile, NOW * 1000).unwrap();
    let chain = [node.chain[0].clone(), ca.cert().clone()];
    assert!(matches!(
        verify(Trust::Pin(ca.pin()), &chain, NOW).unwrap_err(),
        Verdict::Bad(_)
    ));
    assert!(matches!(
        verify(Trust::Ca(ca.cert().clone()), &chain, NOW).unwrap_err(),
        Verdict::Bad(_)
    ));
    let admin = ca.issue_admin("root", NOW * 1000).unwrap().chain().unwrap();
    assert!(matches!(
        verify(Trust::Ca(ca.cert().clone()), &admin, NOW).unwrap_err(),
        Verdict::Bad(_)
    ));
    let own = [ca.cert().clone(), ca.cert().clone()];
    assert!(
        matches!(verify(Trust::Pin(ca.pin()), &own, NOW).unwrap_err(), Verdict::Bad(_)),
        "the CA itself serves nobody"
    );
}

#[test]
fn a_clock_in_the_past_finds_its_hub() {
    let ca = ca();
    let chain = server(&ca, NOW + 900 * DAY);
    for clock in [0, NOW - 400 * DAY, NOW] {
        let floor = verify(Trust::Ca(ca.cert().clone()), &chain, clock).unwrap();
        assert_eq!(
            floor.secs(),
            NOW + 900 * DAY - 300,
            "what the hub signed is proof of the time"
        );
    }
}

#[test]
fn an_ended_certificate_is_refused_and_both_dates_are_told() {
    let ca = ca();
    let chain = server(&ca, NOW);
    let until = NOW + SERVER_VALID.as_secs();
    let late = until + 1;
    assert!(verify(Trust::Ca(ca.cert().clone()), &chain, until - 1).is_ok());
    assert_eq!(
        verify(Trust::Ca(ca.cert().clone()), &chain, late).unwrap_err(),
        Verdict::Ended { until, now: late }
    );
    assert_eq!(
        verify(Trust::Pin(ca.pin()), &chain, late).unwrap_err(),
        Verdict::Ended { until, now: late }
    );
}

#[test]
fn a_remembered_time_sees_through_a_clock_that_was_set_back() {
    let ca = ca();
    let chain = server(&ca, NOW);
    let late = NOW + SERVER_VALID.as_secs() + DAY;
    let verdict = verify_with(Trust::Ca(ca.cert().clone()), &chain, 0, TimeFloor::new(late)).unwrap_err();
    assert!(matches!(verdict, Verdict::Ended { now, .. } if now == late));
    let floor = TimeFloor::new(late);
    floor.raise(5);
    assert_eq!(floor.secs(), late, "it only rises");
}

#[test]
fn a_refused_certificate_proves_no_time() {
    let (ca, other) = (self::ca(), self::ca());
    let floor = TimeFloor::default();
    let chain = server(&other, NOW + 5000 * DAY);
    assert!(verify_with(Trust::Ca(ca.cert().clone()), &chain, NOW, floor.clone()).is_err());
    assert_eq!(floor.secs(), 0);
}

#[test]
fn garbage_is_refused() {
    let ca = ca();
    let junk = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
    assert!(verify(Trust::Pin(ca.pin()), &[junk.clone(), ca.cert().clone()], NOW).is_err());
    assert!(verify(Trust::Ca(ca.cert().clone()), &[junk.clone(), junk], NOW).is_err());
}
