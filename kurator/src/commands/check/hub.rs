//! The way to the hub, UDP and TCP apart, walked as the agent walks it: a full handshake with this gateway's certificate, the hub's
//! verified against its CA. The connection ends before a session begins, so that a running agent's session is not disturbed.

use std::net::SocketAddr;
use std::time::Duration;

use link::{CloseCode, DialError, DialTimes, Dialer, Goodbye, Transports};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Finding, Site, fail, ok, warn};

/// For one name.
const RESOLVE: Duration = Duration::from_secs(3);
/// For one address over one transport.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

pub(super) async fn hubs(site: &Site) -> Vec<Finding> {
    let hubs = site.config().hubs;
    if hubs.is_empty() {
        return vec![warn("none configured: this gateway works alone", "kurator join edge")];
    }
    let dialer = site.identity.as_ref().ok().and_then(|identity| {
        let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes()).ok()?;
        let dialer = Dialer::link(ca, &identity.credential).ok()?;
        let times = DialTimes {
            attempt: ATTEMPT,
            total: ATTEMPT,
            ..DialTimes::default()
        };
        Some(dialer.times(times).time_floor(site.proven.clone()))
    });
    let mut findings = Vec::new();
    for hub in &hubs {
        let addresses = match resolve(hub).await {
            Ok(addresses) => addresses,
            Err(why) => {
                findings.push(fail(format!("{hub}: {why}"), "check DNS, or use the hub's address"));
                continue;
            }
        };
        let Some(dialer) = &dialer else {
            findings.push(warn(
                format!("{hub}: cannot be asked without an identity"),
                "see `identity` above",
            ));
            continue;
        };
        for address in addresses {
            let (udp, tcp) = tokio::join!(
                reach(dialer, address, Transports::QuicOnly),
                reach(dialer, address, Transports::TcpOnly)
            );
            let shown = if hub == &address.to_string() {
                hub.clone()
            } else {
                format!("{hub} ({address})")
            };
            findings.push(judge(&shown, address.port(), udp, tcp));
        }
    }
    findings
}

async fn resolve(hub: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(hub)).await;
    let mut found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => return Err("no answer from the name server".to_owned()),
    };
    found.truncate(MAX_ADDRESSES);
    if found.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(found)
}

async fn reach(dialer: &Dialer, address: SocketAddr, transports: Transports) -> Result<(), DialError> {
    let dialer = dialer.clone().transports(transports);
    let connection = dialer.dial(&[address.to_string()]).await?;
    connection.close(&Goodbye::new(CloseCode::Normal, "a look"));
    Ok(())
}

/// One line for one address. An answer that says no is an answer: that transport gets through.
fn judge(hub: &str, port: u16, udp: Result<(), DialError>, tcp: Result<(), DialError>) -> Finding {
    let no = [&udp, &tcp]
        .into_iter()
        .find_map(|r| r.as_ref().err().filter(|e| e.is_final()));
    if let Some(no) = no {
        return refused(hub, no);
    }
    let why = |e: &DialError| match e {
        DialError::Timeout => "no answer".to_owned(),
        other => other.to_string(),
    };
    match (udp, tcp) {
        (Ok(()), Ok(())) => ok(format!("{hub}: reached over UDP and TCP")),
        (Err(_), Ok(())) => warn(
            format!("{hub}: UDP blocked, the agent will use TCP"),
            format!("let UDP port {port} through: QUIC survives changing networks"),
        ),
        (Ok(()), Err(e)) => warn(
            format!("{hub}: reached over UDP, not over TCP ({})", why(&e)),
            format!("let TCP port {port} through: it is the way when UDP is not"),
        ),
        (Err(u), Err(t)) => fail(
            format!("{hub}: not reached (UDP: {}; TCP: {})", why(&u), why(&t)),
            format!("is the hub up? let port {port} through, UDP and TCP"),
        ),
    }
}

fn refused(hub: &str, no: &DialError) -> Finding {
    let fix = match no {
        DialError::Clock { .. } => "set this machine's date, or enable NTP",
        DialError::PinMismatch { .. } | DialError::BadCertificate(_) => {
            "another hub, or somebody between: compare the address with the hub's; kurator reset edge to join another"
        }
        DialError::Refused(goodbye) if goodbye.code == CloseCode::Busy => {
            "it has much to do: the agent comes back by itself"
        }
        DialError::Refused(_) | DialError::Tls { .. } => "kurator join edge --again with a new token",
        _ => "see `identity` above",
    };
    let busy = matches!(no, DialError::Refused(goodbye) if goodbye.code == CloseCode::Busy);
    let found = format!("{hub}: reached, but {no}");
    if busy { warn(found, fix) } else { fail(found, fix) }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::identity::tests::{NOW, joined};
    use super::*;

    #[test]
    fn the_transports_are_told_apart() {
        let no = || Err(DialError::Timeout);
        for (udp, tcp, state, word) in [
            (Ok(()), Ok(()), State::Ok, "UDP and TCP"),
            (no(), Ok(()), State::Warn, "UDP blocked, the agent will use TCP"),
            (Ok(()), no(), State::Warn, "not over TCP"),
            (no(), no(), State::Fail, "not reached"),
        ] {
            let found = judge("h", 10443, udp, tcp);
            assert!(found.state == state && found.found.contains(word), "{found:?}");
        }
    }

    #[test]
    fn an_answer_that_says_no_has_the_fix_for_that_no() {
        let revoked = DialError::Refused(Goodbye::new(CloseCode::Revoked, "revoked"));
        let found = judge("h", 1, Err(revoked.clone()), Err(DialError::Timeout));
        assert!(found.state == State::Fail && found.fix.contains("--again"), "{found:?}");
        assert!(
            judge("h", 1, Err(DialError::Timeout), Err(revoked))
                .found
                .contains("reached, but")
        );
        let clock = DialError::Clock { until: 1, now: 2 };
        assert!(judge("h", 1, Err(clock), Ok(())).fix.contains("date"));
        let busy = DialError::Refused(Goodbye::busy(Duration::from_secs(1)));
        assert_eq!(judge("h", 1, Err(busy), Ok(())).state, State::Warn);
    }

    #[tokio::test]
    async fn names_and_hubs_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut site = joined(dir.path(), NOW);
        assert_eq!(hubs(&site).await[0].state, State::Warn, "none configured");
        let file = site.config_dir.join("edgecore.yaml");
        std::fs::write(&file, "hubs: ['nowhere.invalid:10443']\n").unwrap();
        site = Site::new(&site.config_dir, []);
        let found = hubs(&site).await;
        assert!(
            found[0].state == State::Fail && found[0].fix.contains("DNS"),
            "{found:?}"
        );
    }
}
