//! What the agent counts, and the page it is read from. Names stand here only.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter or gauge.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:literal $name:literal,)*) => {
        /// All of them.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[$doc])* pub(crate) $field: Count,)*
        }

        impl Metrics {
            /// Prometheus text format.
            pub(crate) fn render(&self) -> String {
                let mut page = String::with_capacity(2048);
                $(line(&mut page, $name, $kind, self.$field.get());)*
                page
            }
        }
    };
}

metrics! {
    /// Reports whose values were committed.
    reports_accepted: "counter" "kurator_edge_reports_accepted_total",
    /// Requests that were sent again although they had been committed: answered, not applied again.
    requests_repeated: "counter" "kurator_edge_requests_repeated_total",
    /// Requests refused for what they said (400, 404).
    requests_rejected: "counter" "kurator_edge_requests_rejected_total",
    /// Requests refused because the store could not take them (500, 507).
    requests_failed: "counter" "kurator_edge_requests_failed_total",
    /// Transactions that carried reports; accepted / commits is the batch size.
    twin_commits: "counter" "kurator_edge_twin_commits_total",
    /// Deltas published.
    deltas: "counter" "kurator_edge_deltas_published_total",
    /// Devices whose twins are held.
    devices: "gauge" "kurator_edge_devices",
    /// 1 while a session with the hub is up.
    uplink_connected: "gauge" "kurator_edge_uplink_connected",
    /// Sessions begun.
    uplink_sessions: "counter" "kurator_edge_uplink_sessions_total",
    /// Objects of the hub's set applied.
    desired_applied: "counter" "kurator_edge_desired_applied_total",
    /// Objects of the hub's set refused.
    desired_refused: "counter" "kurator_edge_desired_refused_total",
    /// Observed bodies handed to the session.
    observed_offered: "counter" "kurator_edge_observed_offered_total",
    /// HTTP requests of the hub served through the link.
    tunnel_streams: "counter" "kurator_edge_tunnel_streams_total",
}

fn line(page: &mut String, name: &str, kind: &str, value: u64) {
    // Writing to a String cannot fail.
    let _ok = writeln!(page, "# TYPE {name} {kind}\n{name} {value}").is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_prometheus_text() {
        let metrics = Metrics::default();
        metrics.reports_accepted.add(3);
        metrics.uplink_connected.set(1);
        let page = metrics.render();
        assert!(
            page.contains(
                "# TYPE kurator_edge_reports_accepted_total counter\nkurator_edge_reports_accepted_total 3\n"
            )
        );
        assert!(page.contains("kurator_edge_uplink_connected 1\n"));
    }
}
