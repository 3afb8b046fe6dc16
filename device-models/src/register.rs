//! Registers: a desired value with the stamp of its writing and its writer, and how two of them merge.
//!
//! A merge picks one of two registers by a total order that depends only on what is in them; that makes it commutative,
//! associative and idempotent for every policy, so all sides end with the same register in whatever order and however
//! often they hear of the writes. Pure data: the module `desired` finds registers in Device objects.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hlc::{Clock, Stamp};
use crate::values::finite;

/// The longest `by` text that is kept, in bytes.
pub const MAX_BY: usize = 256;

/// Which of two desired values counts when both sides wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The later one.
    #[default]
    Latest,
    /// The cloud's, however old; the gateway's while the cloud never wrote.
    Cloud,
    /// The gateway's, however old; the cloud's while the gateway never wrote.
    Edge,
    /// The smaller number. A write in the cloud starts anew: the gateway may only go below it.
    Min,
    /// The larger number. A write in the cloud starts anew: the gateway may only go above it.
    Max,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Cloud => "cloud",
            Self::Edge => "edge",
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

/// Not the name of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a merge policy is one of latest, cloud, edge, min, max")]
pub struct PolicyError;

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Ok(match text {
            "latest" => Self::Latest,
            "cloud" => Self::Cloud,
            "edge" => Self::Edge,
            "min" => Self::Min,
            "max" => Self::Max,
            _ => return Err(PolicyError),
        })
    }
}

/// A desired value, or the fact that there is none any more, as one writer left it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Register {
    /// The value; `None` when the writer took the desired value away.
    pub value: Option<String>,
    /// When, in the order of all writes, and on which node it was written.
    pub stamp: Stamp,
    /// Who wrote it and by which path, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The latest stamp of the other side (cloud or gateway) that the writer built on. What is later than this
    /// and on the other side was written without knowledge of each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saw: Option<Stamp>,
}

impl Register {
    /// A new write over `old` by the node of `clock`: stamped later than `old`.
    pub fn write(old: Option<&Self>, value: Option<String>, by: &str, clock: &mut Clock, wall_ms: u64) -> Self {
        let stamp = clock.tick_after(wall_ms, old.map(|old| &old.stamp));
        let saw = old.and_then(|old| match old.stamp.is_cloud() == stamp.is_cloud() {
            true => old.saw.clone(),
            false => Some(old.stamp.clone()),
        });
        let end = (0..=MAX_BY.min(by.len()))
            .rev()
            .find(|end| by.is_char_boundary(*end))
            .unwrap_or(0);
        Self {
            value,
            stamp,
            by: by.get(..end).unwrap_or_default().to_owned(),
            saw,
        }
    }

    /// Written on both sides without knowledge of each other, with different values: `self` was kept, `loser` was not.
    pub fn conflicts_with(&self, loser: &Self) -> bool {
        self.value != loser.value
            && self.stamp.is_cloud() != loser.stamp.is_cloud()
            && !self.knew(loser)
            && !loser.knew(self)
    }

    /// Whether its writer built on `other`, or on something later, of the other side.
    fn knew(&self, other: &Self) -> bool {
        self.saw.as_ref().is_some_and(|saw| other.stamp <= *saw)
    }

    /// For `min` and `max`: the write in the cloud that this register started from.
    fn base(&self) -> Option<&Stamp> {
        if self.stamp.is_cloud() {
            Some(&self.stamp)
        } else {
            self.saw.as_ref()
        }
    }

    fn number(&self) -> Option<f64> {
        finite(self.value.as_deref()?)
    }

    /// The order within a policy, without the final tie-break.
    fn rank(&self, other: &Self, policy: Policy) -> Ordering {
        // A value that is no number, or none at all, is no bound: any number counts before it.
        let best = |none: f64| self.number().unwrap_or(none).total_cmp(&other.number().unwrap_or(none));
        match policy {
            Policy::Latest => Ordering::Equal,
            Policy::Cloud => self.stamp.is_cloud().cmp(&other.stamp.is_cloud()),
            Policy::Edge => other.stamp.is_cloud().cmp(&self.stamp.is_cloud()),
            Policy::Min => self
                .base()
                .cmp(&other.base())
                .then_with(|| best(f64::INFINITY).reverse()),
            Policy::Max => self.base().cmp(&other.base()).then_with(|| best(f64::NEG_INFINITY)),
        }
    }

    /// The total order of a policy: the greater register counts. Equal only if all that is in them is equal.
    pub fn compare(&self, other: &Self, policy: Policy) -> Ordering {
        self.rank(other, policy)
            .then_with(|| self.stamp.cmp(&other.stamp))
            .then_with(|| self.value.cmp(&other.value))
            .then_with(|| self.by.cmp(&other.by))
            .then_with(|| self.saw.cmp(&other.saw))
    }
}

/// Picks the register that counts.
pub fn merge<'a>(policy: Policy, a: &'a Register, b: &'a Register) -> &'a Register {
    if a.compare(b, policy) == Ordering::Less { b } else { a }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICIES: [Policy; 5] = [Policy::Latest, Policy::Cloud, Policy::Edge, Policy::Min, Policy::Max];

    fn write(old: Option<&Register>, value: &str, clock: &mut Clock, wall: u64) -> Register {
        Register::write(old, Some(value.to_owned()), "someone", clock, wall)
    }

    #[test]
    fn latest_is_by_stamp_and_a_writer_that_saw_wins_in_1970() {
        let (mut hub, mut edge) = (Clock::hub("h", None), Clock::edge("gw", None));
        let cloud = write(None, "80", &mut hub, 1_795_000_000_000);
        let local = write(Some(&cloud), "90", &mut edge, 60_000);
        assert_eq!(merge(Policy::Latest, &cloud, &local), &local);
        assert!(!local.conflicts_with(&cloud));
    }

    #[test]
    fn writes_without_knowledge_of_each_other_conflict() {
        let (mut hub, mut edge) = (Clock::hub("h", None), Clock::edge("gw", None));
        let first = write(None, "80", &mut hub, 1000);
        let cloud = write(Some(&first), "81", &mut hub, 2000);
        let local = write(Some(&first), "90", &mut edge, 3000);
        let again = write(Some(&local), "91", &mut edge, 4000);
        assert!(again.conflicts_with(&cloud));
        assert!(!again.conflicts_with(&first));
        let after = write(Some(&again), "70", &mut hub, 5000);
        assert!(!after.conflicts_with(&again));
        // A policy may keep what the other's writer knew of and wrote over: dropped, and yet no conflict.
        assert_eq!(merge(Policy::Edge, &after, &again), &again);
        assert!(!again.conflicts_with(&after));
    }

    #[test]
    fn cloud_and_edge_policies_look_at_the_side_first() {
        let (mut hub, mut edge) = (Clock::hub("h", None), Clock::edge("gw", None));
        let cloud = write(None, "80", &mut hub, 1000);
        let local = write(Some(&cloud), "90", &mut edge, 2000);
        assert_eq!(merge(Policy::Cloud, &cloud, &local), &cloud);
        let later = write(Some(&local), "85", &mut hub, 3000);
        assert_eq!(merge(Policy::Edge, &later, &local), &local);
    }

    #[test]
    fn min_only_goes_down_until_the_cloud_starts_anew() {
        let (mut hub, mut edge) = (Clock::hub("h", None), Clock::edge("gw", None));
        let limit = write(None, "100", &mut hub, 1000);
        let lower = write(Some(&limit), "9.5", &mut edge, 2000);
        let higher = write(Some(&lower), "200", &mut edge, 3000);
        assert_eq!(merge(Policy::Min, &limit, &lower), &lower);
        assert_eq!(merge(Policy::Min, &higher, &lower), &lower);
        assert_eq!(merge(Policy::Max, &higher, &lower), &higher);
        let anew = write(Some(&lower), "120", &mut hub, 4000);
        assert_eq!(merge(Policy::Min, &lower, &anew), &anew);
        let taken_away = Register::write(Some(&anew), None, "x", &mut edge, 5000);
        assert_eq!(merge(Policy::Min, &taken_away, &anew), &anew);
    }

    #[test]
    fn by_is_cut_at_a_character() {
        let register = Register::write(None, None, &"é".repeat(200), &mut Clock::edge("gw", None), 1);
        assert_eq!(register.by.len(), MAX_BY);
        assert_eq!(
            Register::write(None, None, &"日".repeat(200), &mut Clock::edge("gw", None), 1)
                .by
                .len(),
            255
        );
    }

    #[test]
    fn text_of_policies() {
        for policy in POLICIES {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("Latest".parse::<Policy>().is_err());
    }

    fn any_register() -> impl Strategy<Value = Register> {
        let stamp = || {
            (0u64..6, 0u16..2, prop::sample::select(vec!["@h", "gw-1", "gw-2"]))
                .prop_map(|(ms, c, n)| Stamp::new(ms, c, n))
        };
        let value =
            prop::option::of(prop::sample::select(vec!["1", "2", "10", "1.0", "hot", "-3"]).prop_map(str::to_owned));
        (value, stamp(), "[ab]?", prop::option::of(stamp())).prop_map(|(value, stamp, by, saw)| Register {
            value,
            stamp,
            by,
            saw,
        })
    }

    proptest! {
        #[test]
        fn commutative_associative_idempotent(a in any_register(), b in any_register(), c in any_register()) {
            for p in POLICIES {
                prop_assert_eq!(merge(p, &a, &b), merge(p, &b, &a));
                prop_assert_eq!(merge(p, &a, &a), &a);
                prop_assert_eq!(merge(p, merge(p, &a, &b), &c), merge(p, &a, merge(p, &b, &c)));
            }
        }

        /// Three writers with clocks off by years write over what each of them knows, hear of each other in any order,
        /// late and repeatedly, and after everybody heard everything all hold the same register.
        #[test]
        fn three_writers_converge(policy in prop::sample::select(POLICIES.to_vec()),
                                  skew in prop::array::uniform3(0u64..3_000_000_000_000),
                                  steps in prop::collection::vec((0usize..3, 0usize..4, 0u32..50), 1..40)) {
            let mut clocks = [Clock::hub("h", None), Clock::edge("gw-1", None), Clock::edge("gw-2", None)];
            let mut held: [Option<Register>; 3] = [None, None, None];
            for (wall, (who, what, value)) in steps.into_iter().enumerate() {
                let wall = skew[who] + wall as u64;
                if what == 3 {
                    let new = Register::write(held[who].as_ref(), Some(value.to_string()), "w", &mut clocks[who], wall);
                    let kept = held[who].as_ref().map_or(&new, |old| merge(policy, old, &new)).clone();
                    held[who] = Some(kept);
                } else if let Some(heard) = held[what].clone() {
                    clocks[who].observe(&heard.stamp, wall);
                    let kept = held[who].as_ref().map_or(&heard, |old| merge(policy, old, &heard)).clone();
                    held[who] = Some(kept);
                }
            }
            let all: Vec<Register> = held.iter().flatten().cloned().collect();
            let fold = |order: &[usize]| order.iter().filter_map(|i| held[*i].clone()).reduce(|a, b| merge(policy, &a, &b).clone());
            let result = fold(&[0, 1, 2]);
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                prop_assert_eq!(&fold(&order), &result);
            }
            // And again everything, on top: nothing changes.
            for register in &all {
                prop_assert_eq!(merge(policy, result.as_ref().unwrap(), register), result.as_ref().unwrap());
            }
        }
    }
}
