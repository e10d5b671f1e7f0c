//! Quantities: the numbers of resource requests and limits, such as `500m` and `1Gi`.
//!
//! A [`Quantity`] is an exact number of billionths plus the notation it was
//! written in. Parsing accepts what upstream accepts, rounds fractions beyond a
//! billionth away from zero and caps long numbers at `2^63-1`; printing gives upstream's
//! canonical form (`1500m`, `1536Mi`, `12E`), in which stored objects are kept.
//!
//! ```
//! use skiff_api::Quantity;
//! let limit: Quantity = "1.5Gi".parse().unwrap();
//! assert_eq!(limit.to_string(), "1536Mi");
//! assert_eq!(limit.value(), 1536 << 20);
//! ```

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// Cap of binary amounts and of decimal ones with more than [`PLAIN_DIGITS_MAX`] digits: `2^63-1` ones.
const CAP: i128 = i64::MAX as i128 * NANO;
/// Largest magnitude of any amount; short decimals such as `12E` may exceed [`CAP`].
const MAX: i128 = 10_000_000_000_000_000_000_000_000_000 * NANO;
/// Decimals of up to this many digits are kept exactly, as upstream does.
const PLAIN_DIGITS_MAX: usize = 18;
/// Decimal digits that a mantissa keeps; more cannot change the result but by rounding.
const DIGITS_MAX: usize = 30;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `m`.
    DecimalSi,
    /// `Ki`, `Mi`.
    BinarySi,
    /// `1e3`.
    DecimalExponent,
}

/// Why text is not a quantity; the wording is upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// An exact resource amount.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number, printed with decimal suffixes.
    pub fn from_value(value: i64) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// A whole number, printed with binary suffixes.
    pub fn from_bytes(value: i64) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format: Format::BinarySi }
    }

    /// A number of thousandths.
    pub fn from_millis(millis: i64) -> Quantity {
        Quantity { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// The number of ones, rounded away from zero.
    pub fn value(self) -> i64 {
        scale_down(self.nanos, NANO)
    }

    /// The number of thousandths, rounded away from zero and capped.
    pub fn milli_value(self) -> i64 {
        scale_down(self.nanos, NANO / 1000)
    }

    /// An approximation for ratios and metrics.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn format(self) -> Format {
        self.format
    }

    /// The sum, capped; a zero takes the other's notation.
    pub fn saturating_add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }

    /// The difference, capped; a zero takes the other's notation.
    pub fn saturating_sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos - other.nanos).clamp(-MAX, MAX), format }
    }

    /// The product with a whole number, capped.
    pub fn saturating_mul(self, factor: i64) -> Quantity {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)).clamp(-MAX, MAX), format: self.format }
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Quantity::ZERO
    }
}

/// Quantities are equal by amount, whatever their notation.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Divides, rounding away from zero, and fits the result into an `i64`.
fn scale_down(nanos: i128, unit: i128) -> i64 {
    let quotient = divide_up(nanos, unit);
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

fn divide_up(number: i128, unit: i128) -> i128 {
    let quotient = number / unit;
    if number % unit == 0 { quotient } else { quotient + number.signum() }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let split = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(split);
        check_shape(number, suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Numeric);
        }
        let (format, base2, base10) = parse_suffix(suffix).ok_or(QuantityError::Suffix)?;
        let plain = base2 == 0 && whole.len() + fraction.len() <= PLAIN_DIGITS_MAX;
        let magnitude = magnitude(whole, fraction, base2, base10).min(if plain { MAX } else { CAP });
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

/// The outer form: a number, letters of suffixes, then an optional signed exponent.
fn check_shape(number: &str, suffix: &str) -> Result<(), QuantityError> {
    if !number.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

/// Notation, power of two and power of ten of a suffix.
fn parse_suffix(suffix: &str) -> Option<(Format, u32, i32)> {
    let decimal = |power| Some((Format::DecimalSi, 0, power));
    let binary = |power| Some((Format::BinarySi, power, 0));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
            // Beyond these the result is the cap or the smallest amount anyway.
            Some((Format::DecimalExponent, 0, exponent.clamp(-100, 100) as i32))
        }
    }
}

/// Billionths of `whole.fraction * 2^base2 * 10^base10`, rounded up and capped.
fn magnitude(whole: &str, fraction: &str, base2: u32, base10: i32) -> i128 {
    let mut mantissa: i128 = 0;
    let mut digits = 0;
    let mut power = base10 + 9 - fraction.len() as i32;
    let mut inexact = false;
    for byte in whole.bytes().chain(fraction.bytes()) {
        let digit = i128::from(byte - b'0');
        if digits >= DIGITS_MAX {
            inexact |= digit != 0;
            power += 1;
        } else {
            mantissa = mantissa * 10 + digit;
            digits += usize::from(mantissa != 0);
        }
    }
    if mantissa == 0 {
        return 0;
    }
    let scaled = if power >= 0 {
        // Saturates only far beyond the cap.
        10_i128.checked_pow(power as u32).and_then(|factor| mantissa.checked_mul(factor)).unwrap_or(i128::MAX)
    } else if base2 > 0 {
        return binary_fraction(mantissa, power, base2, inexact);
    } else {
        match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => divide_up(mantissa, divisor) + i128::from(inexact && mantissa % divisor == 0),
            None => 1,
        }
    };
    scaled.checked_mul(1 << base2).unwrap_or(i128::MAX).min(MAX)
}

/// `mantissa * 2^base2 / 10^-power`, rounded up: splits off the integer part so
/// that neither product overflows.
fn binary_fraction(mantissa: i128, power: i32, base2: u32, inexact: bool) -> i128 {
    let Some(divisor) = 10_i128.checked_pow(power.unsigned_abs()) else { return 1 };
    let factor = 1_i128 << base2;
    let whole = (mantissa / divisor).checked_mul(factor);
    let rest = mantissa % divisor;
    // Halve both sides until the product fits; what is lost is far below a billionth.
    let (mut top, mut bottom) = (rest, divisor);
    let mut lost = inexact;
    while top.checked_mul(factor).is_none() {
        lost |= top % 2 != 0;
        top /= 2;
        bottom /= 2;
    }
    let part = divide_up(top * factor, bottom.max(1)) + i128::from(lost && top * factor % bottom.max(1) == 0);
    whole.and_then(|whole| whole.checked_add(part)).unwrap_or(MAX).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !small => {
                let mut amount = divide_up(self.nanos, NANO);
                let mut step = 0;
                while amount % 1024 == 0 && step < 6 {
                    amount /= 1024;
                    step += 1;
                }
                write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
            }
            format => {
                let mut amount = self.nanos;
                let mut power = -9;
                while amount % 1000 == 0 && power < 18 {
                    amount /= 1000;
                    power += 3;
                }
                match (format, power) {
                    (Format::DecimalExponent, 0) => write!(f, "{amount}"),
                    (Format::DecimalExponent, power) => write!(f, "{amount}e{power}"),
                    (_, power) => {
                        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((power + 9) / 3) as usize];
                        write!(f, "{amount}{suffix}")
                    }
                }
            }
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// Accepts text and, like upstream, a bare number.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Text(text) => text,
            Form::Number(number) => number.to_string(),
        };
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().expect(text).to_string()
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, want) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("12E", "12E"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("512Ki", "512Ki"),
            ("1023", "1023"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("2500000u", "2500m"),
            ("+1", "1"),
            ("-1.5", "-1500m"),
            ("-2Ki", "-2Ki"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9999999999999999999", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("0.0001Ki", "102400u"),
        ] {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn malformed_text_is_refused_with_the_reason_upstream_gives() {
        for text in ["", "-", ".", "abc", "1 ", "1Gi2x", "١"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Format), "{text:?}");
        }
        for text in ["1K", "1ki", "1i", "1mm", "1e", "1Kie", "1e9999999999999999999"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text:?}");
        }
        assert_eq!("1.2.3".parse::<Quantity>(), Err(QuantityError::Numeric));
    }

    #[test]
    fn printing_is_stable_under_parsing() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..5000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let number = (seed >> (round % 50)) as i64;
            let suffix = ["", "m", "k", "Mi", "Gi", "n", "e3", "u", "Ei"][round % 9];
            let first: Quantity = format!("{number}{suffix}").parse().unwrap();
            let second: Quantity = first.to_string().parse().unwrap();
            assert_eq!(first, second, "{number}{suffix} -> {first}");
            assert_eq!(first.to_string(), second.to_string());
        }
    }

    #[test]
    fn arithmetic_rounds_up_and_saturates() {
        let half: Quantity = "500m".parse().unwrap();
        assert_eq!(half.value(), 1);
        assert_eq!("-500m".parse::<Quantity>().unwrap().value(), -1);
        assert_eq!(half.saturating_add(half), Quantity::from_value(1));
        assert_eq!(half.saturating_sub(Quantity::from_value(2)).to_string(), "-1500m");
        let max: Quantity = "1e400".parse().unwrap();
        assert_eq!(max.saturating_add(max), max);
        assert_eq!(max.value(), i64::MAX);
        assert_eq!(max.milli_value(), i64::MAX);
        let memory = Quantity::ZERO.saturating_add("1Gi".parse().unwrap());
        assert_eq!(memory.to_string(), "1Gi");
    }
}
