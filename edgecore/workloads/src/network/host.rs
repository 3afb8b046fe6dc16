//! What the kernel must be told before packets of pods go through this machine.

use std::path::Path;

/// Whether packets are passed on from one link to another.
const FORWARD: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
/// Whether rules are asked about packets between ports of one bridge: the answer of a pod to its neighbour must be put back to the Service's
/// address that the neighbour spoke to.
const BRIDGED: [&str; 2] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

/// Turns on that packets are passed on.
///
/// # Errors
/// What to do about it.
pub(super) fn forward(sys: &Path, ipv6: bool) -> Result<(), String> {
    let path = sys.join(FORWARD[usize::from(ipv6)]);
    switch_on(&path).map_err(|e| {
        format!(
            "{} cannot be set to 1, without which pods reach nothing beyond this machine: {e}",
            path.display()
        )
    })
}

/// Turns on that rules see packets between pods on one bridge. False where the kernel cannot (`br_netfilter` is missing): what goes from pod to
/// pod by a Service then comes from this machine's address.
pub(super) fn see_bridged(sys: &Path, ipv6: bool) -> bool {
    switch_on(&sys.join(BRIDGED[usize::from(ipv6)])).is_ok()
}

fn switch_on(path: &Path) -> std::io::Result<()> {
    let now = std::fs::read_to_string(path)?;
    if now.trim() == "0" {
        std::fs::write(path, "1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_turned_on_once_and_missing_ones_named() {
        let sys = tempfile::tempdir().unwrap();
        let path = sys.path().join(FORWARD[0]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "0\n").unwrap();
        forward(sys.path(), false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1");
        assert!(forward(sys.path(), true).unwrap_err().contains("ipv6"));
        assert!(!see_bridged(sys.path(), false));
    }
}
