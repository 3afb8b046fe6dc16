//! The numbers in the status of the kinds that count their pods: a member reports them, the template's status is their sum.

use super::kind::Kind;

/// The numbers of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Written also when they are zero: the kind requires these fields.
    pub(crate) required: &'static [&'static str],
    /// Left out when they are zero.
    pub(crate) optional: &'static [&'static str],
    /// Which generations a member's numbers are of.
    pub(crate) generations: Generations,
}

/// What a member says of generations along with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generations {
    /// Nothing.
    None,
    /// The member's object's own, and the template's that it came from.
    Own,
    /// These, and the one that the member's controller has seen.
    Observed,
}

impl Counts {
    pub(crate) fn of(kind: Kind) -> Option<Self> {
        let (required, optional, generations): (&[_], &[_], _) = match kind {
            Kind::Deployment => (
                &[],
                &[
                    "replicas",
                    "updatedReplicas",
                    "readyReplicas",
                    "availableReplicas",
                    "unavailableReplicas",
                ],
                Generations::Observed,
            ),
            Kind::ReplicaSet => (
                &["replicas"],
                &["readyReplicas", "availableReplicas"],
                Generations::Observed,
            ),
            Kind::StatefulSet => (
                &["replicas", "availableReplicas"],
                &["currentReplicas", "readyReplicas", "updatedReplicas"],
                Generations::Own,
            ),
            Kind::DaemonSet => (
                &[
                    "currentNumberScheduled",
                    "desiredNumberScheduled",
                    "numberMisscheduled",
                    "numberReady",
                ],
                &["numberAvailable", "numberUnavailable", "updatedNumberScheduled"],
                Generations::Observed,
            ),
            Kind::Job => (&[], &["active", "succeeded", "failed"], Generations::None),
            Kind::PodDisruptionBudget => (
                &["disruptionsAllowed", "expectedPods", "desiredHealthy", "currentHealthy"],
                &[],
                Generations::None,
            ),
            Kind::HorizontalPodAutoscaler => (&["desiredReplicas"], &["currentReplicas"], Generations::None),
            _ => return None,
        };
        Some(Self {
            required,
            optional,
            generations,
        })
    }

    /// Every number, and whether it is a required one.
    pub(crate) fn each(self) -> impl Iterator<Item = (&'static str, bool)> {
        let required = self.required.iter().map(|name| (*name, true));
        required.chain(self.optional.iter().map(|name| (*name, false)))
    }
}
