//! Every number the hub tells about itself, named in one place.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters; gauges are read where they live when the page is asked for.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) joins_admitted: Counter,
    pub(crate) joins_refused: Counter,
    pub(crate) sessions_started: Counter,
    pub(crate) sessions_ended: Counter,
    pub(crate) sessions_fenced: Counter,
    pub(crate) sessions_refused: Counter,
    pub(crate) desired_changes: Counter,
    pub(crate) observed_changes: Counter,
    pub(crate) observed_refused: Counter,
    pub(crate) journal_records: Counter,
    pub(crate) journal_dropped: Counter,
    pub(crate) status_writes: Counter,
    pub(crate) status_conflicts: Counter,
    pub(crate) status_refused: Counter,
    pub(crate) proxied_requests: Counter,
    pub(crate) leases_renewed: Counter,
    pub(crate) leases_failed: Counter,
}

/// What is so now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) connected: usize,
    pub(crate) in_sync: usize,
    pub(crate) devices: usize,
    pub(crate) models: usize,
    pub(crate) edge_nodes: usize,
    pub(crate) clusters: usize,
    pub(crate) works: usize,
    pub(crate) writer_backlog: usize,
}

impl Metrics {
    /// The page in Prometheus text format.
    pub(crate) fn render(&self, now: Gauges) -> String {
        let mut out = String::with_capacity(2048);
        let mut line = |name: &str, kind: &str, help: &str, value: u64| {
            writeln!(
                out,
                "# HELP kurator_hub_{name} {help}\n# TYPE kurator_hub_{name} {kind}\nkurator_hub_{name} {value}"
            )
            .expect("a String takes every write");
        };
        let gauge = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        line(
            "gateways_connected",
            "gauge",
            "Gateways with a live session.",
            gauge(now.connected),
        );
        line(
            "gateways_in_sync",
            "gauge",
            "Gateways whose desired and observed digests are equal on both ends.",
            gauge(now.in_sync),
        );
        line("devices", "gauge", "Devices known.", gauge(now.devices));
        line("device_models", "gauge", "Device models known.", gauge(now.models));
        line("edge_nodes", "gauge", "EdgeNodes known.", gauge(now.edge_nodes));
        line(
            "clusters",
            "gauge",
            "Clusters that stand for gateways of this hub.",
            gauge(now.clusters),
        );
        line("works", "gauge", "Works known.", gauge(now.works));
        line(
            "writer_backlog",
            "gauge",
            "Objects waiting to be written to the API.",
            gauge(now.writer_backlog),
        );
        for (name, help, counter) in [
            ("joins_admitted_total", "Join requests admitted.", &self.joins_admitted),
            ("joins_refused_total", "Join requests refused.", &self.joins_refused),
            (
                "sessions_started_total",
                "Sessions that were welcomed.",
                &self.sessions_started,
            ),
            ("sessions_ended_total", "Sessions that ended.", &self.sessions_ended),
            (
                "sessions_fenced_total",
                "Sessions that a newer one took over from.",
                &self.sessions_fenced,
            ),
            (
                "sessions_refused_total",
                "Sessions refused at their Hello.",
                &self.sessions_refused,
            ),
            (
                "desired_changes_total",
                "Desired changes handed to sessions.",
                &self.desired_changes,
            ),
            (
                "observed_changes_total",
                "Observed changes received.",
                &self.observed_changes,
            ),
            (
                "observed_refused_total",
                "Observed changes refused by key.",
                &self.observed_refused,
            ),
            (
                "journal_records_total",
                "Journal records stored.",
                &self.journal_records,
            ),
            (
                "journal_dropped_total",
                "Journal records that gateways had to drop.",
                &self.journal_dropped,
            ),
            (
                "status_writes_total",
                "Objects written to the API.",
                &self.status_writes,
            ),
            (
                "status_conflicts_total",
                "Writes repeated because the object had changed.",
                &self.status_conflicts,
            ),
            (
                "status_refused_total",
                "Writes that the API refused.",
                &self.status_refused,
            ),
            (
                "proxied_requests_total",
                "Requests carried to gateways.",
                &self.proxied_requests,
            ),
            (
                "leases_renewed_total",
                "Leases of clusters renewed.",
                &self.leases_renewed,
            ),
            (
                "leases_failed_total",
                "Leases of clusters that could not be renewed in time.",
                &self.leases_failed,
            ),
        ] {
            line(name, "counter", help, counter.get());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_one_sample_per_name() {
        let metrics = Metrics::default();
        metrics.joins_admitted.add(3);
        let page = metrics.render(Gauges {
            connected: 2,
            ..Gauges::default()
        });
        assert!(page.contains("\nkurator_hub_joins_admitted_total 3\n"));
        assert!(page.contains("\nkurator_hub_gateways_connected 2\n"));
        let mut names: Vec<&str> = page
            .lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| l.split(' ').next())
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
