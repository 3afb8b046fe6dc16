//! What of the machine is not for pods, and when it runs short: settings and their amounts.

use std::collections::BTreeMap;
use std::time::Duration;

use metastore::api::quantity_nanos;
use serde::Deserialize;

/// Resources kept for the system and the agent: pods are not promised them. Quantities such as `250m` and `128Mi`; empty: none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Reserved {
    /// Processors.
    pub cpu: String,
    /// Memory.
    pub memory: String,
    /// Disk.
    pub ephemeral_storage: String,
}

/// When pods are evicted so that the machine lives on. Thresholds by signal (`memory.available`, `nodefs.available`, `nodefs.inodesFree`,
/// `imagefs.available`, `imagefs.inodesFree`, `pid.available`), each a quantity (`100Mi`) or a part of the whole (`10%`); `0%`: never.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Eviction {
    /// At once. Those that are not named here keep their defaults: 100Mi of memory (a tenth where that is less), 10 % of the disk and 5 %
    /// of its inodes, 15 % of the images' disk, 5 % of process ids.
    pub hard: BTreeMap<String, String>,
    /// After a while.
    pub soft: BTreeMap<String, String>,
    /// That while, in seconds, for each soft threshold.
    pub soft_grace_seconds: BTreeMap<String, u64>,
    /// How much more than its threshold is won back of a resource that ran short.
    pub minimum_reclaim: BTreeMap<String, String>,
    /// Longest a pod may take to end when it goes because of a soft threshold, in seconds.
    pub max_pod_grace_seconds: u32,
    /// How long the Node says that it is under pressure after it was last seen, in seconds.
    pub pressure_transition_seconds: u64,
    /// How full the images' disk may be, in percent, before images that no pod uses are removed.
    pub image_high_percent: u8,
    /// And how full it is then at most.
    pub image_low_percent: u8,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            hard: BTreeMap::new(),
            soft: BTreeMap::new(),
            soft_grace_seconds: BTreeMap::new(),
            minimum_reclaim: BTreeMap::new(),
            max_pod_grace_seconds: 0,
            pressure_transition_seconds: 300,
            image_high_percent: 85,
            image_low_percent: 80,
        }
    }
}

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    Memory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pids,
}

impl Signal {
    /// All, with their names in settings and default hard thresholds.
    pub(super) const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Memory, "memory.available", ""),
        (Self::NodeFs, "nodefs.available", "10%"),
        (Self::NodeFsInodes, "nodefs.inodesFree", "5%"),
        (Self::ImageFs, "imagefs.available", "15%"),
        (Self::ImageFsInodes, "imagefs.inodesFree", "5%"),
        (Self::Pids, "pid.available", "5%"),
    ];
}

/// An amount, or a part of a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Amount {
    Of(u64),
    /// 0 to 1.
    Part(f64),
}

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().ok()?;
            return (0.0..=100.0).contains(&percent).then_some(Self::Part(percent / 100.0));
        }
        let nanos = quantity_nanos(&text.into()).filter(|nanos| *nanos >= 0)?;
        u64::try_from(nanos / 1_000_000_000).ok().map(Self::Of)
    }

    /// In units of the whole.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub(super) fn of(self, whole: u64) -> u64 {
        match self {
            Self::Of(amount) => amount,
            Self::Part(part) => (whole as f64 * part) as u64,
        }
    }
}

/// A line that a signal must not fall under.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Threshold {
    pub(super) signal: Signal,
    pub(super) least: Amount,
    /// How long it may be under; none: hard.
    pub(super) grace: Option<Duration>,
    /// How much more is to be won back.
    pub(super) reclaim: Option<Amount>,
}

impl Eviction {
    /// All thresholds, and what of the settings makes no sense.
    pub(super) fn thresholds(&self) -> (Vec<Threshold>, Vec<String>) {
        let mut faults = Vec::new();
        let mut thresholds = Vec::new();
        for (name, map) in [
            ("hard", &self.hard),
            ("soft", &self.soft),
            ("minimumReclaim", &self.minimum_reclaim),
        ] {
            let known = |signal: &str| Signal::ALL.iter().any(|(_, name, _)| *name == signal);
            for (signal, value) in map {
                if !known(signal) {
                    faults.push(format!("workloads.eviction.{name}: there is no signal {signal:?}"));
                } else if Amount::parse(value).is_none() {
                    faults.push(format!(
                        "workloads.eviction.{name}.{signal}: {value:?} is neither a quantity (100Mi) nor a part (10%)"
                    ));
                }
            }
        }
        for (signal, name, default) in Signal::ALL {
            let said = |map: &BTreeMap<String, String>| map.get(name).and_then(|text| Amount::parse(text));
            // On a small machine a hundred mebibytes are what it lives on.
            let usual = || Amount::parse(default).unwrap_or(Amount::Of(100 << 20));
            let reclaim = said(&self.minimum_reclaim);
            let hard = said(&self.hard).unwrap_or_else(usual);
            let mut add = |least: Amount, grace| {
                if !matches!(least, Amount::Of(0)) && least != Amount::Part(0.0) {
                    thresholds.push(Threshold {
                        signal,
                        least,
                        grace,
                        reclaim,
                    });
                }
            };
            add(hard, None);
            if let Some(least) = said(&self.soft) {
                match self.soft_grace_seconds.get(name) {
                    Some(seconds) => add(least, Some(Duration::from_secs(*seconds))),
                    None => faults.push(format!(
                        "workloads.eviction.soft.{name} needs workloads.eviction.softGraceSeconds.{name}"
                    )),
                }
            }
        }
        if self.image_low_percent >= self.image_high_percent || self.image_high_percent > 100 {
            faults.push(
                "workloads.eviction.imageLowPercent must be less than imageHighPercent, which is at most 100"
                    .to_owned(),
            );
        }
        (thresholds, faults)
    }

    /// The hard threshold of a signal on a machine that has so much of it.
    pub(super) fn least(&self, signal: Signal, whole: u64) -> u64 {
        let (thresholds, _) = self.thresholds();
        let hard = thresholds.iter().find(|t| t.signal == signal && t.grace.is_none());
        hard.map_or(0, |t| self.scaled(t, whole))
    }

    /// A threshold in units of the whole.
    pub(super) fn scaled(&self, threshold: &Threshold, whole: u64) -> u64 {
        let least = threshold.least.of(whole);
        let usual = threshold.signal == Signal::Memory
            && threshold.grace.is_none()
            && !self.hard.contains_key("memory.available");
        if usual { least.min(whole / 10) } else { least }
    }

    /// What of the settings makes no sense.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.thresholds().1
    }
}

impl Reserved {
    /// In nanos of one; what is empty is none.
    fn nanos(text: &str) -> Option<i128> {
        if text.is_empty() {
            return Some(0);
        }
        quantity_nanos(&text.into()).filter(|nanos| *nanos >= 0)
    }

    /// Thousandths of processors.
    pub(super) fn milli_cpus(&self) -> u64 {
        Self::nanos(&self.cpu).map_or(0, |nanos| u64::try_from(nanos / 1_000_000).unwrap_or(u64::MAX))
    }

    /// Bytes of memory and of disk.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let bytes =
            |text| Self::nanos(text).map_or(0, |nanos| u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX));
        (bytes(&self.memory), bytes(&self.ephemeral_storage))
    }

    /// What of the settings makes no sense.
    pub(crate) fn faults(&self) -> Vec<String> {
        let all = [
            ("cpu", &self.cpu),
            ("memory", &self.memory),
            ("ephemeralStorage", &self.ephemeral_storage),
        ];
        let bad = all.into_iter().filter(|(_, text)| Self::nanos(text).is_none());
        bad.map(|(name, text)| format!("workloads.reserved.{name} {text:?} is not a quantity such as 250m or 128Mi"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn memory_threshold_fits_small_machines() {
        let eviction = Eviction::default();
        assert_eq!(eviction.least(Signal::Memory, 8 << 30), 100 << 20);
        assert_eq!(eviction.least(Signal::Memory, 512 << 20), (512 << 20) / 10);
        assert_eq!(eviction.least(Signal::NodeFs, 1000), 100);
        let said = Eviction {
            hard: map(&[("memory.available", "200Mi"), ("pid.available", "0%")]),
            ..Eviction::default()
        };
        assert_eq!(said.least(Signal::Memory, 512 << 20), 200 << 20);
        assert_eq!(said.least(Signal::Pids, 1000), 0);
        assert_eq!(said.thresholds().0.len(), 5);
        assert!(said.faults().is_empty());
    }

    #[test]
    fn soft_thresholds_need_their_time_and_nonsense_is_named() {
        let eviction = Eviction {
            hard: map(&[("memory.free", "1"), ("nodefs.available", "much")]),
            soft: map(&[("memory.available", "20%"), ("nodefs.available", "15%")]),
            soft_grace_seconds: BTreeMap::from([("memory.available".to_owned(), 90)]),
            image_low_percent: 90,
            ..Eviction::default()
        };
        let (thresholds, faults) = eviction.thresholds();
        assert_eq!(faults.len(), 4, "{faults:?}");
        for part in [
            "memory.free",
            "much",
            "softGraceSeconds.nodefs.available",
            "imageLowPercent",
        ] {
            assert!(faults.iter().any(|f| f.contains(part)), "{part} in {faults:?}");
        }
        let soft = thresholds.iter().find(|t| t.grace.is_some()).unwrap();
        assert_eq!((soft.least.of(1000), soft.grace), (200, Some(Duration::from_secs(90))));
    }

    #[test]
    fn reservations_are_quantities() {
        let reserved = Reserved {
            cpu: "250m".into(),
            memory: "64Mi".into(),
            ephemeral_storage: String::new(),
        };
        assert_eq!((reserved.milli_cpus(), reserved.bytes()), (250, (64 << 20, 0)));
        assert!(reserved.faults().is_empty());
        assert!(
            Reserved {
                cpu: "some".into(),
                ..Reserved::default()
            }
            .faults()[0]
                .contains("workloads.reserved.cpu")
        );
    }
}
