//! What expressions cost: before they run (an estimate out of declared sizes)
//! and while they run. The numbers are part of what clients see: a rule that is
//! accepted by one server must be accepted by another.

pub mod estimate;
pub mod runtime;

/// Characters of text that cost one unit, as a factor.
pub(crate) const TEXT: f64 = 0.1;
/// Characters of a regular expression that cost one unit, as a factor.
pub(crate) const PATTERN: f64 = 0.25;
/// An authorization check; allows two of them in one expression.
pub(crate) const AUTHORIZATION: u64 = 350_000;

/// Lowest and highest size or cost; never overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub const fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Each bound times a factor, rounded up.
    pub fn scaled(self, factor: f64) -> Range {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// `value` times `factor`, rounded up, never more than fits.
pub(crate) fn scale(value: u64, factor: f64) -> u64 {
    let product = (value as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}
