//! Dividing a number among members: in proportion, to the last one, and with as little moving about as the numbers allow.

use std::collections::BTreeMap;

/// A member that takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bid<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// How much of it, beside the others' weights.
    pub(super) weight: i64,
    /// More than this does not fit.
    pub(super) most: i64,
}

/// The shares of all that get any. They add up to `count` if there is anybody at all; what fits nowhere is divided among all the same, and
/// waits where it is.
///
/// In proportion to the weights, what is left over to those with the largest remainder, and among equals to those that stand first in an order
/// which each `key` has of its own. With equal weights nobody gets less because another went.
pub(super) fn apportion<'a>(key: &str, count: i64, bids: &[Bid<'a>]) -> BTreeMap<&'a str, i64> {
    let mut order: Vec<(u64, Bid<'a>)> = bids.iter().map(|bid| (score(key, bid.name), *bid)).collect();
    order.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then(x.name.cmp(y.name)));
    order.dedup_by(|(_, a), (_, b)| a.name == b.name);
    let mut bids: Vec<Bid<'a>> = order.into_iter().map(|(_, bid)| bid).collect();
    if bids.iter().all(|bid| bid.weight <= 0) {
        bids.iter_mut().for_each(|bid| bid.weight = 1);
    }
    bids.retain(|bid| bid.weight > 0);
    let mut shares: BTreeMap<&str, i64> = BTreeMap::new();
    let count = count.max(0);
    let left = capped(count, &bids, &mut shares);
    if left > 0 {
        let anywhere: Vec<Bid<'a>> = bids.iter().map(|bid| Bid { most: i64::MAX, ..*bid }).collect();
        let mut more = BTreeMap::new();
        capped(left, &anywhere, &mut more);
        for (name, share) in more {
            *shares.entry(name).or_default() += share;
        }
    }
    shares.retain(|_, share| *share > 0);
    shares
}

/// Divides among these, in their order, no more than fits each; what is left over is returned.
fn capped<'a>(count: i64, bids: &[Bid<'a>], shares: &mut BTreeMap<&'a str, i64>) -> i64 {
    let mut open: Vec<Bid<'a>> = bids.to_vec();
    let mut left = count;
    // Those that have no room for what is their due get what they have room for, and the others share the rest.
    loop {
        let weights: i128 = open.iter().map(|bid| i128::from(bid.weight)).sum();
        let full = |bid: &Bid<'_>| i128::from(left) * i128::from(bid.weight) >= i128::from(bid.most.max(0)) * weights;
        let (fulls, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(full);
        open = rest;
        if fulls.is_empty() {
            break;
        }
        for bid in fulls {
            // Together they may be due more than there is, by rounding only.
            let share = bid.most.clamp(0, left);
            left -= share;
            shares.insert(bid.name, share);
        }
    }
    let weights: i128 = open.iter().map(|bid| i128::from(bid.weight)).sum();
    if weights == 0 || left == 0 {
        return left;
    }
    let due = |bid: &Bid<'_>| i128::from(left) * i128::from(bid.weight);
    let mut given = 0;
    for bid in &open {
        let share = i64::try_from(due(bid) / weights).unwrap_or(0);
        shares.insert(bid.name, share);
        given += share;
    }
    // A stable order: equal remainders stay in the order of the key.
    let mut by_remainder: Vec<&Bid<'a>> = open.iter().collect();
    by_remainder.sort_by_key(|bid| std::cmp::Reverse(due(bid) % weights));
    for bid in by_remainder
        .into_iter()
        .take(usize::try_from(left - given).unwrap_or(0))
    {
        *shares.entry(bid.name).or_default() += 1;
    }
    0
}

/// Where a member stands in the order of a key: the higher, the earlier. The same on every machine and in every version.
pub(super) fn score(key: &str, member: &str) -> u64 {
    let bytes = key.bytes().chain([0xff]).chain(member.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The last bytes of a name count as much as the first.
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
