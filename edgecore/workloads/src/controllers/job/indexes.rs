//! Sets of completion indexes as a Job's status carries them: `0-2,5,7`. Held as intervals: a Job may have a hundred thousand.

use std::fmt;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads those below `completions`; what is no number is passed over.
    pub(super) fn parse(text: &str, completions: i64) -> Self {
        let mut out = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>())
                && first >= 0
                && first < completions
                && first <= last
            {
                out.add(first, last.min(completions - 1));
            }
        }
        out
    }

    /// Adds all from `first` to `last`.
    fn add(&mut self, first: i64, last: i64) {
        let at = self.0.partition_point(|(_, end)| *end + 1 < first);
        let touching = self.0[at..].iter().take_while(|(start, _)| *start <= last + 1).count();
        let (mut low, mut high) = (first, last);
        if touching > 0 {
            low = low.min(self.0[at].0);
            high = high.max(self.0[at + touching - 1].1);
        }
        self.0.splice(at..at + touching, [(low, high)]);
    }

    pub(super) fn insert(&mut self, index: i64) {
        self.add(index, index);
    }

    /// Both together.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (first, last) in &other.0 {
            out.add(*first, *last);
        }
        out
    }

    pub(super) fn contains(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end < index);
        self.0.get(at).is_some_and(|(start, _)| *start <= index)
    }

    /// How many.
    pub(super) fn len(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    pub(super) fn shared(&self, other: &Self) -> i64 {
        let mut count = 0;
        for (first, last) in &self.0 {
            for (a, b) in &other.0 {
                count += (last.min(b) - first.max(a) + 1).max(0);
            }
        }
        count
    }

    /// The first that are not in it, below `completions`.
    pub(super) fn free(&self, count: usize, completions: i64) -> Vec<i64> {
        let mut out = Vec::new();
        let mut next = 0;
        let ends = self.0.iter().copied().chain([(completions, completions)]);
        for (first, last) in ends {
            while next < first.min(completions) && out.len() < count {
                out.push(next);
                next += 1;
            }
            next = next.max(last + 1);
        }
        out
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<T: IntoIterator<Item = i64>>(iter: T) -> Self {
        let mut out = Self::default();
        for index in iter {
            out.insert(index);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn they_are_written_as_elsewhere() {
        for (indexes, text) in [
            (vec![], ""),
            (vec![3], "3"),
            (vec![4, 3], "3,4"),
            (vec![0, 1, 2, 5, 7], "0-2,5,7"),
            (vec![1, 3, 2], "1-3"),
        ] {
            assert_eq!(indexes.into_iter().collect::<Indexes>().to_string(), text);
        }
        assert_eq!(Indexes::parse("0-2,x,5,90-95", 92).to_string(), "0-2,5,90,91");
        assert_eq!(Indexes::parse("7-99999999", 10).len(), 3);
    }

    proptest! {
        #[test]
        fn they_are_a_set(some in proptest::collection::vec(0_i64..40, 0..30), more in proptest::collection::vec(0_i64..40, 0..30)) {
            let (a, b): (Indexes, Indexes) = (some.iter().copied().collect(), more.iter().copied().collect());
            let (x, y): (BTreeSet<i64>, BTreeSet<i64>) = (some.into_iter().collect(), more.into_iter().collect());
            prop_assert_eq!(Indexes::parse(&a.to_string(), 40), a.clone());
            prop_assert_eq!(a.len(), x.len() as i64);
            prop_assert_eq!(a.shared(&b), x.intersection(&y).count() as i64);
            prop_assert_eq!(a.and(&b), x.union(&y).copied().collect());
            let free: Vec<i64> = (0..40).filter(|i| !x.contains(i)).take(5).collect();
            prop_assert_eq!(a.free(5, 40), free);
            prop_assert!((0..40).all(|i| a.contains(i) == x.contains(&i)));
        }
    }
}
