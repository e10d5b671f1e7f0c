//! Quantities: exact decimal numbers with a suffix.

use std::{cmp::Ordering, fmt};

use super::opaque::Opaque;
use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

const NANO: i128 = 1_000_000_000;

/// A number of billionths. Finer parts are rounded up, as the API does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
}

impl Quantity {
    /// Reads `500m`, `1.5Gi`, `1e3`.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 60 {
            return None;
        }
        let (base, exponent) = suffix_scale(suffix)?;
        let fraction = fraction.trim_end_matches('0');
        let mantissa = format!("{whole}{fraction}");
        let mantissa: i128 = mantissa.trim_start_matches('0').parse().or_else(|_| zero(&mantissa)).ok()?;
        let power = exponent + 9 - fraction.len() as i32;
        let nanos = scaled(mantissa.checked_mul(base)?, power)?;
        Some(Quantity { nanos: if negative { -nanos } else { nanos } })
    }

    pub fn compare(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    fn integer(&self) -> Option<i64> {
        (self.nanos % NANO == 0).then(|| i64::try_from(self.nanos / NANO).ok()).flatten()
    }
}

fn zero(digits: &str) -> Result<i128, ()> {
    if digits.bytes().all(|byte| byte == b'0') { Ok(0) } else { Err(()) }
}

/// `value` times a power of ten, rounded up away from zero.
fn scaled(value: i128, power: i32) -> Option<i128> {
    if power >= 0 {
        return if value == 0 { Some(0) } else { value.checked_mul(10i128.checked_pow(power as u32)?) };
    }
    match 10i128.checked_pow(power.unsigned_abs()) {
        Some(divisor) => Some(value / divisor + i128::from(value % divisor != 0)),
        None => Some(i128::from(value != 0)),
    }
}

/// A whole factor and a power of ten.
fn suffix_scale(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let number: i32 = digits.parse().ok()?;
            (1, Some(number).filter(|number| number.abs() <= 40)?)
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut suffix) = (self.nanos, "n");
        for (next, name) in [(1_000, "u"), (1_000, "m"), (1_000, ""), (1_000, "k"), (1_000, "M"), (1_000, "G")] {
            if value == 0 || value % next != 0 {
                break;
            }
            (value, suffix) = (value / next, name);
        }
        if value == 0 { f.write_str("0") } else { write!(f, "{value}{suffix}") }
    }
}

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "quantity" => |args| {
            let quantity = Quantity::parse(args.text(0)?);
            let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            Ok(Value::opaque(Opaque::Quantity(quantity.ok_or_else(|| Fault::new(why))?)))
        },
        "isQuantity" => |args| Ok(Value::Bool(Quantity::parse(args.text(0)?).is_some())),
        "sign" => |args| Ok(Value::Int(of(args, 0)?.nanos.signum() as i64)),
        "isInteger" => |args| Ok(Value::Bool(of(args, 0)?.integer().is_some())),
        "asInteger" => |args| {
            let number = of(args, 0)?.integer();
            number.map(Value::Int).ok_or_else(|| Fault::new("cannot convert value to integer"))
        },
        "asApproximateFloat" => |args| Ok(Value::Double(of(args, 0)?.nanos as f64 / NANO as f64)),
        "isGreaterThan" => |args| Ok(Value::Bool(compare(args)?.is_gt())),
        "isLessThan" => |args| Ok(Value::Bool(compare(args)?.is_lt())),
        "compareTo" => |args| Ok(Value::Int(compare(args)? as i64)),
        "add" => |args| combine(args, 1),
        "sub" => |args| combine(args, -1),
        _ => return None,
    })
}

fn of(args: &Args<'_, '_>, index: usize) -> Result<Quantity, Fault> {
    match args.get(index)? {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

/// Quantities, or versions.
fn compare(args: &Args<'_, '_>) -> Result<Ordering, Fault> {
    match of(args, 0) {
        Ok(a) => Ok(a.compare(&of(args, 1)?)),
        Err(_) => Ok(super::versions::of(args, 0)?.cmp_precedence(super::versions::of(args, 1)?)),
    }
}

fn combine<'a>(args: &Args<'_, 'a>, sign: i128) -> Result<Value<'a>, Fault> {
    let other = match args.get(1)? {
        Value::Int(number) => i128::from(*number) * NANO,
        _ => of(args, 1)?.nanos,
    };
    let sum = of(args, 0)?.nanos.checked_add(sign * other).ok_or_else(|| Fault::new("quantity overflow"))?;
    Ok(Value::opaque(Opaque::Quantity(Quantity { nanos: sum })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_fractions() {
        let nanos = |text: &str| Quantity::parse(text).map(|quantity| quantity.nanos);
        assert_eq!(nanos("500m"), Some(500_000_000));
        assert_eq!(nanos("1.5Gi"), Some(1_610_612_736 * NANO));
        assert_eq!(nanos("1e3"), Some(1000 * NANO));
        assert_eq!(nanos("-0.1n"), Some(-1));
        assert_eq!(nanos("12E"), Some(12_000_000_000_000_000_000 * NANO));
        for bad in ["", "1x", "1..2", "m", "+", "1e999", "1 Gi"] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }
}
