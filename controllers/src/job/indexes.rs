//! Sets of completion indexes, written as `0,2-5,9`.

use std::{collections::BTreeSet, fmt, str::FromStr};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<u32>);

impl Indexes {
    pub fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    pub fn insert(&mut self, index: u32) {
        self.0.insert(index);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of these are in `other`.
    pub fn count_in(&self, other: &Indexes) -> usize {
        self.0.intersection(&other.0).count()
    }

    /// Keeps indexes below a bound: completions may shrink.
    pub fn below(mut self, bound: u32) -> Indexes {
        self.0.retain(|index| *index < bound);
        self
    }
}

impl FromIterator<u32> for Indexes {
    fn from_iter<T: IntoIterator<Item = u32>>(indexes: T) -> Self {
        Indexes(indexes.into_iter().collect())
    }
}

impl FromStr for Indexes {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut indexes = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            indexes.extend(first.parse::<u32>()?..=last.parse::<u32>()?);
        }
        Ok(Indexes(indexes))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        for (position, (first, last)) in runs.into_iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                // Two neighbours are written apart, as upstream does.
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_compact_and_reads_back() {
        let indexes: Indexes = [0, 2, 3, 5, 6, 7, 8].into_iter().collect();
        assert_eq!(indexes.to_string(), "0,2,3,5-8");
        assert_eq!("0,2,3,5-8".parse::<Indexes>().unwrap(), indexes);
        assert!("".parse::<Indexes>().unwrap().is_empty());
    }
}
