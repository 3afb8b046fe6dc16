//! Which of the clusters that come into question are taken, where a placement says how many clusters and regions there must be.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::divide::Strategy;
use super::{Candidate, Spread, Unschedulable};
use crate::kinds::{Placement, SpreadConstraint, SpreadField};

/// What a constraint allows, with its defaults: at least one, and no upper bound.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: usize,
    max: usize,
}

/// One region, with its clusters in the order in which they are preferred.
struct Region<'a> {
    name: &'a str,
    weight: i128,
    clusters: Vec<Candidate<'a>>,
}

/// Takes clusters. The candidates are in the order in which they are preferred.
///
/// # Errors
/// The constraints cannot be kept.
pub(super) fn select<'a>(
    placement: &Placement,
    strategy: Strategy,
    candidates: Vec<Candidate<'a>>,
    wanted: Option<i64>,
) -> Result<Vec<Candidate<'a>>, Unschedulable> {
    let constraints = &placement.spread_constraints;
    if constraints.is_empty() || strategy.ignores_spread(placement) {
        return Ok(candidates);
    }
    let clusters = bounds(constraints, SpreadField::Cluster);
    if let Some(regions) = bounds(constraints, SpreadField::Region) {
        // Without a word on clusters any number of them will do.
        let clusters = clusters.unwrap_or(Bounds {
            min: 0,
            max: usize::MAX,
        });
        return by_region(regions, clusters, strategy, candidates, wanted.unwrap_or(0));
    }
    match clusters {
        Some(clusters) => {
            let needed = (strategy != Strategy::Duplicated).then_some(wanted.unwrap_or(0));
            by_cluster(clusters, candidates, needed)
        }
        None => Err(Unschedulable::Spread(Spread::Unsupported)),
    }
}

/// The last constraint on a field counts. A constraint that names neither field nor label is one on clusters.
fn bounds(constraints: &[SpreadConstraint], field: SpreadField) -> Option<Bounds> {
    let of = |constraint: &&SpreadConstraint| match constraint.spread_by_field {
        Some(named) => named == field,
        None => constraint.spread_by_label.is_empty() && field == SpreadField::Cluster,
    };
    let constraint = constraints.iter().rfind(of)?;
    let count = |bound: Option<i64>| bound.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    Some(Bounds {
        min: count(constraint.min_groups).unwrap_or(1),
        max: count(constraint.max_groups).unwrap_or(usize::MAX),
    })
}

/// The best clusters; where those have no room for what is needed, the last of them give way to others that have more.
fn by_cluster(
    bounds: Bounds,
    mut candidates: Vec<Candidate<'_>>,
    needed: Option<i64>,
) -> Result<Vec<Candidate<'_>>, Unschedulable> {
    if candidates.len() < bounds.min {
        return Err(Unschedulable::Spread(Spread::FewClusters));
    }
    let count = candidates.len().min(bounds.max);
    let Some(needed) = needed else {
        candidates.truncate(count);
        return Ok(candidates);
    };
    let (taken, rest) = candidates.split_at_mut(count);
    let mut room: i128 = taken.iter().map(|c| i128::from(c.room())).sum();
    for place in (0..count).rev() {
        if room >= i128::from(needed) {
            break;
        }
        // The first of the roomiest: they are in the order in which they are preferred.
        let Some((other, best)) = rest.iter().enumerate().rev().max_by_key(|(_, c)| c.room()) else {
            break;
        };
        if best.room() > taken[place].room() {
            room += i128::from(best.room()) - i128::from(taken[place].room());
            std::mem::swap(&mut taken[place], &mut rest[other]);
        }
    }
    if room < i128::from(needed) {
        return Err(Unschedulable::Spread(Spread::NoRoom(count)));
    }
    candidates.truncate(count);
    Ok(candidates)
}

/// As few regions as keep the constraints, the best first; of each its best cluster, and then the best of all that are left.
fn by_region<'a>(
    regions: Bounds,
    clusters: Bounds,
    strategy: Strategy,
    candidates: Vec<Candidate<'a>>,
    wanted: i64,
) -> Result<Vec<Candidate<'a>>, Unschedulable> {
    let mut by_name: BTreeMap<&'a str, Vec<Candidate<'a>>> = BTreeMap::new();
    for candidate in candidates {
        by_name.entry(candidate.view.region).or_default().push(candidate);
    }
    if by_name.len() < regions.min {
        return Err(Unschedulable::Spread(Spread::FewRegions));
    }
    let all = by_name
        .into_iter()
        .map(|(name, members)| Region {
            name,
            weight: weight(&members, strategy, wanted, regions.min, clusters.min),
            clusters: members,
        })
        .collect();
    let chosen = choose_regions(all, regions, clusters.min);
    if chosen.is_empty() {
        return Err(Unschedulable::Spread(Spread::FewClustersInRegions));
    }
    let mut taken = Vec::new();
    let mut rest = Vec::new();
    for region in chosen {
        let mut members = region.clusters.into_iter();
        taken.extend(members.next());
        rest.extend(members);
    }
    rest.sort_by(Candidate::preference);
    rest.truncate(clusters.max.saturating_sub(taken.len()));
    taken.extend(rest);
    Ok(taken)
}

/// What speaks for a region: first its room for what it would get, then how much of it is there already (at most 100).
fn weight(members: &[Candidate<'_>], strategy: Strategy, wanted: i64, min_regions: usize, min_clusters: usize) -> i128 {
    const UNIT: i128 = 1000;
    let average = |sum: i128, count: usize| sum / i128::try_from(count.max(1)).unwrap_or(1);
    if strategy == Strategy::Duplicated {
        let fit = || members.iter().filter(|c| c.room() >= wanted);
        let count = fit().count();
        return i128::try_from(count).unwrap_or(0) * UNIT + average(fit().map(|c| i128::from(c.score())).sum(), count);
    }
    let parts = i128::try_from(min_regions).unwrap_or(1).max(1);
    let target = (i128::from(wanted) + parts - 1) / parts;
    let enough = min_clusters.max(min_regions);
    let (mut room, mut score, mut count) = (0_i128, 0_i128, 0_usize);
    for member in members {
        room += i128::from(member.room());
        score += i128::from(member.score());
        count += 1;
        if count >= enough && room >= target {
            break;
        }
    }
    let counted = if room < target { members.len() } else { count };
    room.min(target) * UNIT + average(score, counted)
}

/// The fewest regions that have enough clusters between them. Of those the heaviest is taken first, as long as what may still be taken
/// suffices, and so on: no search through all combinations, which a long list of regions would make endless.
fn choose_regions<'a>(mut regions: Vec<Region<'a>>, bounds: Bounds, min_clusters: usize) -> Vec<Region<'a>> {
    let size = |region: &Region<'_>| region.clusters.len();
    let mut sizes: Vec<usize> = regions.iter().map(size).collect();
    sizes.sort_by_key(|size| Reverse(*size));
    let most = bounds.max.min(regions.len());
    let reaches = |count: &usize| sizes.iter().take(*count).sum::<usize>() >= min_clusters;
    let Some(count) = (bounds.min.max(1)..=most).find(reaches) else {
        return Vec::new();
    };
    regions.sort_by(|a, b| (b.weight, size(b)).cmp(&(a.weight, size(a))).then(a.name.cmp(b.name)));
    let mut chosen: Vec<Region<'a>> = Vec::new();
    let mut have = 0;
    while chosen.len() < count {
        let others = count - chosen.len() - 1;
        let largest: usize = sizes.iter().take(others).sum();
        // A region that is itself among the largest makes room there for the next one.
        let next = sizes.get(others).copied().unwrap_or(0);
        let threshold = if others == 0 { usize::MAX } else { sizes[others - 1] };
        let fits = |region: &Region<'_>| {
            let own = size(region);
            let reach = if own >= threshold {
                largest + next
            } else {
                largest + own
            };
            have + reach >= min_clusters
        };
        // One always fits: the largest does, for the count was chosen so.
        let place = regions.iter().position(fits).unwrap_or(0);
        let region = regions.remove(place);
        let own = size(&region);
        have += own;
        sizes.remove(sizes.partition_point(|size| *size > own));
        chosen.push(region);
    }
    chosen
}
