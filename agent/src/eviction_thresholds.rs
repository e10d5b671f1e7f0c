//! Limits below which pods are evicted, in the notation of upstream's
//! `evictionHard`: `memory.available<100Mi,nodefs.available<5%`.
//!
//! As upstream, thresholds that are given replace all defaults: a signal that
//! is not named is not watched, and one of `0%` or `100%` neither.

use skiff_host::fs::FsUsage;

/// Why thresholds could not be read.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ThresholdError {
    #[error("{0:?} is not of the form SIGNAL<AMOUNT, as in memory.available<100Mi or nodefs.available<5%")]
    Form(String),
    #[error("{signal:?} is no signal that is watched; these are: {all}", all = SIGNALS.join(", "))]
    Signal { signal: String },
    #[error("{signal} is given twice")]
    Twice { signal: &'static str },
    #[error("{value:?} of {signal} is neither a quantity nor a percentage from 0% to 100%")]
    Value { signal: &'static str, value: String },
}

/// What is watched, in the order of the fields.
const SIGNALS: [&str; 5] =
    ["memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"];

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes, or inodes.
    Amount(u64),
    /// Of the capacity.
    Percent(f64),
}

/// All limits; `None` for a signal that is not watched.
///
/// Images are on the file system of the data folder, so both disk signals look at that one.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionThresholds([Option<Threshold>; 5]);

impl Default for EvictionThresholds {
    /// K3s's values; memory as upstream.
    fn default() -> Self {
        let five = Some(Threshold::Percent(5.0));
        EvictionThresholds([Some(Threshold::Amount(100 << 20)), five, five, five, None])
    }
}

impl EvictionThresholds {
    /// Reads a comma-separated list; an empty one watches nothing.
    pub fn parse(text: &str) -> Result<EvictionThresholds, ThresholdError> {
        let mut all = [None; 5];
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('<').ok_or_else(|| ThresholdError::Form(part.to_owned()))?;
            let place = SIGNALS.iter().position(|signal| *signal == name.trim());
            let place = place.ok_or_else(|| ThresholdError::Signal { signal: name.trim().to_owned() })?;
            let signal = SIGNALS[place];
            if all[place].is_some() {
                return Err(ThresholdError::Twice { signal });
            }
            let wrong = || ThresholdError::Value { signal, value: value.trim().to_owned() };
            all[place] = Some(amount(value.trim()).ok_or_else(wrong)?);
        }
        Ok(EvictionThresholds(all))
    }

    /// Memory below which pods must go, of so much in all.
    pub fn memory_bytes(&self, capacity_bytes: u64) -> u64 {
        self.at(0, capacity_bytes)
    }

    /// Disk space below which pods must go.
    pub fn disk_bytes(&self, disk: &FsUsage) -> u64 {
        self.at(1, disk.capacity_bytes).max(self.at(3, disk.capacity_bytes))
    }

    /// Whether so little memory is left that pods must go.
    pub fn is_memory_short(&self, capacity_bytes: u64, available_bytes: u64) -> bool {
        available_bytes < self.memory_bytes(capacity_bytes)
    }

    /// Whether the disk is so full that pods must go; a disk of unknown size is not full.
    pub fn is_disk_short(&self, disk: &FsUsage) -> bool {
        let inodes = self.at(2, disk.inodes).max(self.at(4, disk.inodes));
        disk.capacity_bytes > 0 && disk.available_bytes < self.disk_bytes(disk)
            || disk.inodes > 0 && disk.inodes_free < inodes
    }

    fn at(&self, place: usize, capacity: u64) -> u64 {
        match self.0[place] {
            None => 0,
            Some(Threshold::Amount(amount)) => amount,
            // Either end means that the signal is not watched.
            Some(Threshold::Percent(percent)) if percent >= 100.0 => 0,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share"
            )]
            Some(Threshold::Percent(percent)) => (capacity as f64 / 100.0 * percent) as u64,
        }
    }
}

fn amount(text: &str) -> Option<Threshold> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().ok()?;
        return (0.0..=100.0).contains(&percent).then_some(Threshold::Percent(percent));
    }
    let quantity: skiff_api::Quantity = text.parse().ok()?;
    u64::try_from(quantity.value()).ok().filter(|amount| *amount > 0).map(Threshold::Amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(available_bytes: u64, inodes_free: u64) -> FsUsage {
        FsUsage { capacity_bytes: 100_000, available_bytes, inodes: 1000, inodes_free }
    }

    #[test]
    fn shortages_are_noticed_at_their_thresholds() {
        let default = EvictionThresholds::default();
        assert!(default.is_memory_short(8 << 30, 99 << 20) && !default.is_memory_short(8 << 30, 100 << 20));
        assert!(default.is_disk_short(&disk(4999, 500)) && !default.is_disk_short(&disk(5000, 500)));
        assert!(default.is_disk_short(&disk(50_000, 49)) && !default.is_disk_short(&disk(50_000, 50)));
        assert!(!default.is_disk_short(&FsUsage::default()), "an unknown disk is not full");
    }

    #[test]
    fn what_is_given_replaces_all_defaults() {
        let given = EvictionThresholds::parse("memory.available<10%, imagefs.available<20k").unwrap();
        assert!(given.is_memory_short(1000, 99) && !given.is_memory_short(1000, 100));
        assert!(given.is_disk_short(&disk(19_999, 0)) && !given.is_disk_short(&disk(20_000, 0)));
        let nothing = EvictionThresholds::parse("").unwrap();
        assert!(!nothing.is_memory_short(1 << 30, 0) && !nothing.is_disk_short(&disk(0, 0)));
        let ends = EvictionThresholds::parse("nodefs.available<100%,nodefs.inodesFree<0%").unwrap();
        assert!(!ends.is_disk_short(&disk(0, 0)));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| EvictionThresholds::parse(text).unwrap_err().to_string();
        assert!(error("memory.available").contains("SIGNAL<AMOUNT"));
        assert!(error("pid.available<5%").contains("nodefs.inodesFree, imagefs.available"));
        assert!(error("memory.available<1Mi,memory.available<2Mi").contains("twice"));
        for value in ["", "-1", "0", "101%", "x%", "NaN%", "1Zi"] {
            let text = format!("nodefs.available<{value}");
            assert!(error(&text).contains("of nodefs.available"), "{value}");
        }
    }
}
