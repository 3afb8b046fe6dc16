//! How many replicas each of the chosen clusters gets.

use std::collections::{BTreeMap, BTreeSet};

use super::affinity::Weights;
use super::{Candidate, Request, Step, Unschedulable};
use crate::kinds::{DivisionPreference, DynamicWeight, Placement, ReplicaSchedulingType};

/// Shares by the name of the cluster.
pub(super) type Shares<'a> = BTreeMap<&'a str, i64>;

/// How a placement divides replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Duplicated,
    Static,
    Dynamic,
    Aggregated,
}

impl Strategy {
    /// What is absent is as Karmada's webhook and definitions fill it in; the old spellings are as [`crate::compat`] translates them.
    pub(super) fn of(placement: &Placement) -> Self {
        let Some(scheduling) = &placement.replica_scheduling else {
            return Self::Duplicated;
        };
        let preference = scheduling.weight_preference.as_ref();
        let by_weight = match preference.and_then(|preference| preference.dynamic_weight) {
            Some(DynamicWeight::AvailableReplicas) => Self::Dynamic,
            None => Self::Static,
        };
        match (
            scheduling.replica_scheduling_type,
            scheduling.replica_division_preference,
        ) {
            (Some(ReplicaSchedulingType::Duplicated), _) => Self::Duplicated,
            (Some(ReplicaSchedulingType::Weighted), _) => by_weight,
            _ if !scheduling.weight_list.is_empty() => by_weight,
            (_, Some(DivisionPreference::Aggregated)) => Self::Aggregated,
            _ => by_weight,
        }
    }

    pub(super) fn looks_at_room(self) -> bool {
        matches!(self, Self::Dynamic | Self::Aggregated)
    }

    /// Whether constraints on the spread are left aside: fixed weights already say which clusters there are. A weightPreference that says
    /// nothing does not.
    pub(super) fn ignores_spread(self, placement: &Placement) -> bool {
        let scheduling = placement.replica_scheduling.as_ref();
        let silent = scheduling.is_some_and(|scheduling| {
            scheduling.weight_list.is_empty()
                && scheduling
                    .weight_preference
                    .as_ref()
                    .is_some_and(|preference| preference.static_weight_list.is_empty())
        });
        self == Self::Static && !silent
    }
}

/// Divides what is wanted among the candidates. In a placement with overflow each tier takes what it has room for, one after another.
///
/// # Errors
/// There is not enough room.
pub(super) fn assign<'a>(
    request: &Request<'_>,
    strategy: Strategy,
    candidates: &[Candidate<'a>],
    wanted: i64,
) -> Result<Shares<'a>, Unschedulable> {
    let last = candidates.iter().map(|candidate| candidate.tier).max().unwrap_or(0);
    if last == 0 {
        return assign_tier(request, strategy, candidates, wanted);
    }
    let mut shares = Shares::new();
    let mut left = wanted;
    for tier in 0..=last {
        let here: Vec<Candidate<'a>> = candidates.iter().filter(|c| c.tier == tier).copied().collect();
        let room = here.iter().fold(0_i64, |sum, c| sum.saturating_add(c.room()));
        let share = left.min(room);
        if share > 0 {
            shares.extend(assign_tier(request, strategy, &here, share)?);
            left -= share;
        }
    }
    if left > 0 {
        return Err(Unschedulable::NoRoomInOverflow);
    }
    Ok(shares)
}

fn assign_tier<'a>(
    request: &Request<'_>,
    strategy: Strategy,
    candidates: &[Candidate<'a>],
    wanted: i64,
) -> Result<Shares<'a>, Unschedulable> {
    Ok(match strategy {
        Strategy::Duplicated => candidates.iter().map(|c| (c.view.name, wanted)).collect(),
        Strategy::Static => by_fixed_weights(request.placement, candidates, wanted),
        Strategy::Dynamic => by_room(candidates, wanted, false, request.fresh)?,
        Strategy::Aggregated => by_room(candidates, wanted, true, request.fresh)?,
    })
}

/// Always divided anew: what was before only breaks ties.
fn by_fixed_weights<'a>(placement: &Placement, candidates: &[Candidate<'a>], wanted: i64) -> Shares<'a> {
    let scheduling = placement.replica_scheduling.as_ref();
    let list = scheduling.into_iter().flat_map(|scheduling| {
        let today = scheduling.weight_preference.as_ref();
        let old = &scheduling.weight_list;
        today.into_iter().flat_map(|today| &today.static_weight_list).chain(old)
    });
    let weights = Weights::new(list);
    let weighed: Vec<(&str, i64)> = candidates
        .iter()
        .map(|candidate| (candidate.view.name, weights.of(candidate.view)))
        .collect();
    let previous = candidates.iter().map(|c| (c.view.name, c.assigned())).collect();
    divide_by_weight(wanted, &weighed, &previous).into_iter().collect()
}

/// Divided by the room that clusters have. What is there already stays: growth divides the difference by the room that is left, and
/// shrinking divides what remains by what was there. `fresh` divides everything anew.
fn by_room<'a>(
    candidates: &[Candidate<'a>],
    wanted: i64,
    aggregated: bool,
    fresh: bool,
) -> Result<Shares<'a>, Unschedulable> {
    let before: Shares<'a> = candidates
        .iter()
        .filter(|candidate| candidate.previous.is_some())
        .map(|candidate| (candidate.view.name, candidate.assigned()))
        .collect();
    let assigned: i128 = before.values().map(|share| i128::from(*share)).sum();
    let missing = i128::from(wanted) - assigned;
    if !fresh && missing == 0 {
        return Ok(before);
    }
    let grows = !fresh && missing > 0;
    let target = if grows {
        i64::try_from(missing).unwrap_or(wanted)
    } else {
        wanted
    };
    let mut pool: Vec<(&str, i64)> = candidates
        .iter()
        .map(|candidate| {
            let room = match () {
                () if fresh => candidate.room(),
                () if grows => candidate.allocatable,
                () => candidate.assigned(),
            };
            (candidate.view.name, room)
        })
        .collect();
    pool.sort_by_key(|(_, room)| std::cmp::Reverse(*room));
    let room: i128 = pool.iter().map(|(_, room)| i128::from(*room)).sum();
    if room < i128::from(target) {
        return Err(Unschedulable::NoRoom {
            available: i64::try_from(room).unwrap_or(i64::MAX),
            step: if fresh { Step::Anew } else { Step::Grow },
        });
    }
    if aggregated {
        if grows {
            pool.sort_by_key(|(name, _)| before.get(name).is_none_or(|share| *share == 0));
        }
        let mut sum = 0_i128;
        let enough = pool.iter().position(|(_, room)| {
            sum += i128::from(*room);
            sum >= i128::from(target)
        });
        pool.truncate(enough.map_or(pool.len(), |last| last + 1));
    }
    let mut shares: Shares<'a> = divide_by_weight(target, &pool, &BTreeMap::new()).into_iter().collect();
    if grows {
        for (name, share) in before {
            *shares.entry(name).or_default() += share;
        }
    }
    Ok(shares)
}

/// Divides a number by weights: each gets the whole part of its exact share, and what is left goes, one each, to the largest remainders.
/// Of equal remainders the larger weight goes first, then who had more before, then the name. The parts add up to the total, whatever the
/// order of the weights; where no weight is above zero all weigh the same. Ordered by name.
pub fn divide_by_weight<'n>(
    total: i64,
    weights: &[(&'n str, i64)],
    previous: &BTreeMap<&str, i64>,
) -> Vec<(&'n str, i64)> {
    let mut by_name: BTreeMap<&'n str, i64> = BTreeMap::new();
    for (name, weight) in weights {
        let known = by_name.entry(name).or_default();
        *known = (*known).max(*weight);
    }
    if by_name.values().all(|weight| *weight == 0) {
        by_name.values_mut().for_each(|weight| *weight = 1);
    }
    let total = i128::from(total.max(0));
    let sum: i128 = by_name.values().map(|weight| i128::from(*weight)).sum();
    // The product of two i64 fits.
    let exact = |weight: i64| (total * i128::from(weight) / sum, total * i128::from(weight) % sum);
    let left = total - by_name.values().map(|weight| exact(*weight).0).sum::<i128>();
    let mut order: Vec<(&'n str, i64)> = by_name.iter().map(|(name, weight)| (*name, *weight)).collect();
    let before = |name: &str| previous.get(name).copied().unwrap_or_default();
    order.sort_by(|(a, weight), (b, other)| {
        (exact(*other).1, other, before(b))
            .cmp(&(exact(*weight).1, weight, before(a)))
            .then(a.cmp(b))
    });
    // There are fewer left than weights.
    let more: BTreeSet<&str> = order.iter().zip(0..left).map(|((name, _), _)| *name).collect();
    by_name
        .into_iter()
        .map(|(name, weight)| {
            let share = exact(weight).0 + i128::from(more.contains(name));
            (name, i64::try_from(share).unwrap_or(i64::MAX))
        })
        .collect()
}
