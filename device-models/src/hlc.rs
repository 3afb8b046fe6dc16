//! Hybrid logical clock: stamps that order the writes to a register although no clock can be trusted.
//!
//! Owns the stamp, its text form, and the clock that makes stamps. Never reads a clock: the caller passes the wall time
//! in milliseconds since 1970. Called by whoever writes a desired value: the hub's and the gateway's admission, and the twin.
//!
//! A stamp is (milliseconds, counter, node). The milliseconds follow the wall clock while that moves forward and stand
//! still, with the counter going on, while it does not. Three rules make it safe with clocks that are wrong by years:
//!
//! 1. A clock never hands out a stamp that is not later than all it handed out before by [`Clock::tick`], also after a
//!    restart, if the caller persists [`Clock::last`] with the write and gives it back.
//! 2. A write that replaces a register is stamped later than that register ([`Clock::tick_after`]), whatever the wall
//!    clock says. So "I saw yours and changed it" always wins, even on a gateway that believes it is 1970.
//! 3. A clock follows stamps of others only so far: a gateway follows its hub to any plausible time (that gives a box
//!    without a battery clock a useful time); a hub follows a gateway at most [`MAX_AHEAD_MS`] beyond its own wall clock.
//!    A stamp further ahead is still an order and merges like any other, it just does not drag the hub's clock along, so
//!    one gateway that believes it is 2080 does not move the stamps of the whole fleet.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How far beyond its own wall clock a hub's clock follows a gateway's stamp: one day, in milliseconds.
pub const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// The latest time, in milliseconds since 1970, that a stamp from elsewhere may carry (the year 6429): half of what the
/// text form can hold, so that no stamp from elsewhere can leave a writer without a later one.
pub const MAX_PLAUSIBLE_MS: u64 = 1 << 47;

/// The longest node id in a stamp, in bytes: a Kubernetes node name, or `@` and a hub's id.
pub const MAX_NODE: usize = 253;

const MAX_MS: u64 = (1 << 48) - 1;
/// "%012x-%04x-" before the node id.
const PREFIX: usize = 12 + 1 + 4 + 1;

/// A point in the order of all writes. Ordered by milliseconds, counter, node; so is its text form
/// `"{ms:012x}-{counter:04x}-{node}"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    ms: u64,
    counter: u16,
    node: Arc<str>,
}

/// A stamp's text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// Not of the form `000000000000-0000-node`.
    #[error("a stamp is 12 hexadecimal digits, '-', 4 hexadecimal digits, '-' and a node name")]
    Form,
    /// Its time is beyond [`MAX_PLAUSIBLE_MS`].
    #[error("the stamp's time is beyond the year 6429")]
    Implausible,
}

impl Stamp {
    /// A stamp from its parts; `ms` is cut to 48 bits.
    pub fn new(ms: u64, counter: u16, node: impl Into<Arc<str>>) -> Self {
        Self {
            ms: ms.min(MAX_MS),
            counter,
            node: node.into(),
        }
    }

    /// The stamp of a value that carries none: earlier than every stamp of a clock, counted as written in the cloud.
    pub fn unstamped() -> Self {
        Self::new(0, 0, "@")
    }

    /// Milliseconds since 1970, as the writer believed (or as the order demanded).
    pub fn ms(&self) -> u64 {
        self.ms
    }

    /// Who made the stamp: a gateway's node name, or `@` and a hub's id.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Made by a hub rather than a gateway. A node name is a DNS name, so it cannot begin with `@`.
    pub fn is_cloud(&self) -> bool {
        self.node.starts_with('@')
    }

    /// Refuses a stamp from elsewhere whose time is beyond [`MAX_PLAUSIBLE_MS`].
    pub fn plausible(self) -> Result<Self, StampError> {
        if self.ms > MAX_PLAUSIBLE_MS {
            Err(StampError::Implausible)
        } else {
            Ok(self)
        }
    }

    fn successor(&self, node: &Arc<str>) -> Self {
        match self.counter.checked_add(1) {
            Some(counter) => Self {
                ms: self.ms,
                counter,
                node: Arc::clone(node),
            },
            None => Self::new(self.ms + 1, 0, Arc::clone(node)),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{:04x}-{}", self.ms, self.counter, self.node)
    }
}

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let hex = |part: &str| {
            // Lower case only: one stamp has one text, or the order of texts would not be the order of stamps.
            let digits = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let (Some(ms), Some("-"), Some(counter), Some("-"), Some(node)) = (
            text.get(..12),
            text.get(12..13),
            text.get(13..17),
            text.get(17..18),
            text.get(PREFIX..),
        ) else {
            return Err(StampError::Form);
        };
        let (Some(ms), Some(counter)) = (hex(ms), hex(counter).and_then(|c| u16::try_from(c).ok())) else {
            return Err(StampError::Form);
        };
        let printable = node.bytes().all(|b| b.is_ascii_graphic());
        if node.is_empty() || node.len() > MAX_NODE || !printable {
            return Err(StampError::Form);
        }
        Ok(Self {
            ms,
            counter,
            node: node.into(),
        })
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What [`Clock::observe`] did with a stamp from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The clock's next stamp is later than it.
    Followed,
    /// It is this many milliseconds ahead of this clock, further than it follows. Worth a warning about that node's clock.
    TooFarAhead(u64),
}

/// Makes stamps. One per daemon: two clocks of one node could make one stamp twice.
#[derive(Clone, Debug)]
pub struct Clock {
    last: Stamp,
    follow_ms: u64,
}

impl Clock {
    /// The clock of gateway `node`. `last` is the persisted [`Clock::last`], if there is one.
    pub fn edge(node: &str, last: Option<Stamp>) -> Self {
        Self::with(node.into(), last, u64::MAX)
    }

    /// The clock of hub `id` (without `@`). `last` is the persisted [`Clock::last`], if there is one.
    pub fn hub(id: &str, last: Option<Stamp>) -> Self {
        Self::with(format!("@{id}").into(), last, MAX_AHEAD_MS)
    }

    fn with(node: Arc<str>, last: Option<Stamp>, follow_ms: u64) -> Self {
        // Another node's `last` (a copied disk image, a renamed gateway) still holds the time back; the name is ours.
        let (ms, counter) = last.map_or((0, 0), |last| (last.ms, last.counter));
        Self {
            last: Stamp { ms, counter, node },
            follow_ms,
        }
    }

    /// The node id in this clock's stamps.
    pub fn node(&self) -> &str {
        &self.last.node
    }

    /// The latest stamp made or followed: persist it in the transaction that persists what was stamped.
    pub fn last(&self) -> &Stamp {
        &self.last
    }

    /// A stamp later than every stamp this clock made or followed.
    pub fn tick(&mut self, wall_ms: u64) -> Stamp {
        let wall_ms = wall_ms.min(MAX_PLAUSIBLE_MS);
        let next = if wall_ms > self.last.ms {
            Stamp {
                ms: wall_ms,
                counter: 0,
                node: Arc::clone(&self.last.node),
            }
        } else {
            self.last.successor(&self.last.node)
        };
        self.last = next;
        self.last.clone()
    }

    /// A stamp as of [`Clock::tick`] which is also later than `floor`, the stamp of the register to be replaced.
    pub fn tick_after(&mut self, wall_ms: u64, floor: Option<&Stamp>) -> Stamp {
        let Some(floor) = floor else { return self.tick(wall_ms) };
        let followed = self.observe(floor, wall_ms);
        let stamp = self.tick(wall_ms);
        match followed {
            Observed::Followed => stamp,
            Observed::TooFarAhead(_) => floor.successor(&self.last.node),
        }
    }

    /// Takes note of a stamp from elsewhere, so that what is stamped next is later, as far as this clock follows.
    pub fn observe(&mut self, stamp: &Stamp, wall_ms: u64) -> Observed {
        if (stamp.ms, stamp.counter) <= (self.last.ms, self.last.counter) {
            return Observed::Followed;
        }
        let ahead = stamp.ms.saturating_sub(wall_ms.min(MAX_PLAUSIBLE_MS).max(self.last.ms));
        if ahead > self.follow_ms || stamp.ms > MAX_PLAUSIBLE_MS {
            return Observed::TooFarAhead(ahead);
        }
        self.last = Stamp {
            ms: stamp.ms,
            counter: stamp.counter,
            node: Arc::clone(&self.last.node),
        };
        Observed::Followed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_795_230_654_934;
    const YEAR: u64 = 365 * 24 * 60 * 60 * 1000;

    #[test]
    fn text_is_fixed_width_and_comes_back() {
        let stamp = Stamp::new(NOW, 10, "gw-1");
        assert_eq!(stamp.to_string(), "01a1fc15e1d6-000a-gw-1");
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "01a1fd087fd6-000a-",
            "01a1fd087fd6-000a",
            "01A1FD087FD6-000a-gw",
            "+1a1fd087fd6-000a-gw",
            "01a1fd087fd6_000a-gw",
            "01a1fd087fd6-000a-gw 1",
            "01a1fd087fdé-000a-gw",
            "1a1fd087fd6-000a-gw",
        ] {
            assert_eq!(text.parse::<Stamp>(), Err(StampError::Form), "{text:?}");
        }
        let long = format!("01a1fd087fd6-000a-{}", "n".repeat(MAX_NODE + 1));
        assert_eq!(long.parse::<Stamp>(), Err(StampError::Form));
        let far: Stamp = "ffffffffffff-ffff-gw".parse().unwrap();
        assert_eq!(far.plausible(), Err(StampError::Implausible));
    }

    #[test]
    fn a_clock_that_went_back_to_1970_still_moves_forward() {
        let mut clock = Clock::edge("gw-1", None);
        let before = clock.tick(NOW);
        let mut restarted = Clock::edge("gw-1", Some(clock.last().clone()));
        let after = restarted.tick(0);
        assert!(after > before);
        assert!(restarted.tick(5) > after);
    }

    #[test]
    fn the_counter_spills_into_the_milliseconds() {
        let mut clock = Clock::edge("gw-1", Some(Stamp::new(NOW, u16::MAX, "gw-1")));
        assert_eq!(clock.tick(0), Stamp::new(NOW + 1, 0, "gw-1"));
    }

    #[test]
    fn a_gateway_in_1970_takes_the_time_from_its_hub() {
        let mut clock = Clock::edge("gw-1", None);
        assert_eq!(clock.observe(&Stamp::new(NOW, 3, "@hub"), 12_000), Observed::Followed);
        assert!(clock.tick(12_001) > Stamp::new(NOW, 3, "@hub"));
    }

    #[test]
    fn a_hub_is_not_dragged_into_2080_but_its_edit_still_wins() {
        let mut hub = Clock::hub("h", None);
        let far = Stamp::new(NOW + 54 * YEAR, 0, "gw-1");
        assert_eq!(hub.observe(&far, NOW), Observed::TooFarAhead(54 * YEAR));
        let edit = hub.tick_after(NOW, Some(&far));
        assert!(edit > far);
        assert_eq!(edit.node(), "@h");
        assert_eq!(hub.tick(NOW + 1).ms(), NOW + 1);
    }

    #[test]
    fn the_last_stamp_there_is_leaves_room_for_an_edit() {
        let last = Stamp::new(MAX_PLAUSIBLE_MS, u16::MAX, "gw-1");
        let mut hub = Clock::hub("h", None);
        assert!(hub.tick_after(NOW, Some(&last)) > last);
    }

    proptest! {
        #[test]
        fn order_of_texts_is_order_of_stamps(a in (0..MAX_MS, any::<u16>(), "[a-z@][a-z0-9.-]{0,8}"),
                                             b in (0..MAX_MS, any::<u16>(), "[a-z@][a-z0-9.-]{0,8}")) {
            let (a, b) = (Stamp::new(a.0, a.1, a.2), Stamp::new(b.0, b.1, b.2));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.to_string().parse::<Stamp>().unwrap(), a);
        }

        #[test]
        fn never_goes_back(walls in prop::collection::vec(0..MAX_MS, 1..60), restart in any::<u64>(), hub in any::<bool>()) {
            let make = |last| if hub { Clock::hub("h", last) } else { Clock::edge("gw", last) };
            let mut clock = make(None);
            let mut before = Stamp::new(0, 0, clock.node());
            for (i, wall) in walls.into_iter().enumerate() {
                if (restart >> (i % 64)) & 1 == 1 {
                    clock = make(Some(clock.last().clone()));
                }
                if i % 3 == 0 {
                    clock.observe(&Stamp::new(wall ^ 0xffff_ffff, 7, "other"), wall);
                }
                let stamp = clock.tick(wall);
                prop_assert!(stamp > before);
                let floor = Stamp::new(wall / 2 + 1, 9, "other");
                prop_assert!(clock.tick_after(wall, Some(&floor)) > floor);
                before = stamp;
            }
        }
    }
}
