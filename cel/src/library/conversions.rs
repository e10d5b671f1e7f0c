//! Conversions between types.

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    time,
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "bool" => |args| match args.get(0)? {
            Value::Bool(value) => Ok(Value::Bool(*value)),
            Value::String(text) => match &**text {
                "1" | "t" | "true" | "TRUE" | "True" | "T" => Ok(Value::Bool(true)),
                "0" | "f" | "false" | "FALSE" | "False" | "F" => Ok(Value::Bool(false)),
                _ => Err(Fault::new("type conversion error from 'string' to 'bool'")),
            },
            _ => Err(Fault::no_such_overload()),
        },
        "int" => int,
        "uint" => uint,
        "double" => double,
        "string" => string,
        "bytes" => |args| match args.get(0)? {
            Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
            Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
            _ => Err(Fault::no_such_overload()),
        },
        "duration" => |args| match args.get(0)? {
            Value::Duration(nanos) => Ok(Value::Duration(*nanos)),
            Value::String(text) => time::duration(text)
                .map(Value::Duration)
                .ok_or_else(|| Fault::new(format!("time: invalid duration {:?}", &**text))),
            _ => Err(Fault::no_such_overload()),
        },
        "timestamp" => |args| match args.get(0)? {
            Value::Timestamp(time) => Ok(Value::Timestamp(*time)),
            Value::Int(seconds) => jiff::Timestamp::from_second(*seconds)
                .map(Value::Timestamp)
                .map_err(|_| Fault::new("timestamp overflow")),
            Value::String(text) => time::timestamp(text)
                .map(Value::Timestamp)
                .ok_or_else(|| Fault::new(format!("invalid timestamp {:?}", &**text))),
            _ => Err(Fault::no_such_overload()),
        },
        _ => return None,
    })
}

fn range() -> Fault {
    Fault::new("range error")
}

fn int<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(Value::Int(match args.get(0)? {
        Value::Int(number) => *number,
        Value::Uint(number) => i64::try_from(*number).map_err(|_| range())?,
        Value::Double(number) => {
            const LIMIT: f64 = 9_223_372_036_854_775_808.0;
            if !(*number > -LIMIT && *number < LIMIT) {
                return Err(range());
            }
            *number as i64
        }
        Value::String(text) => text.parse().map_err(|_| Fault::new("type conversion error from 'string' to 'int'"))?,
        Value::Timestamp(time) => time.as_second(),
        Value::Duration(nanos) => *nanos,
        _ => return Err(Fault::no_such_overload()),
    }))
}

fn uint<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(Value::Uint(match args.get(0)? {
        Value::Uint(number) => *number,
        Value::Int(number) => u64::try_from(*number).map_err(|_| range())?,
        Value::Double(number) => {
            if !(*number > -1.0 && *number < 18_446_744_073_709_551_616.0) {
                return Err(range());
            }
            *number as u64
        }
        Value::String(text) => text.parse().map_err(|_| Fault::new("type conversion error from 'string' to 'uint'"))?,
        _ => return Err(Fault::no_such_overload()),
    }))
}

fn double<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(Value::Double(match args.get(0)? {
        Value::Double(number) => *number,
        Value::Int(number) => *number as f64,
        Value::Uint(number) => *number as f64,
        Value::String(text) => {
            text.parse().map_err(|_| Fault::new("type conversion error from 'string' to 'double'"))?
        }
        _ => return Err(Fault::no_such_overload()),
    }))
}

fn string<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let value = args.get(0)?;
    Ok(match value {
        Value::String(text) => Value::String(text.clone()),
        Value::Bool(value) => Value::text(value.to_string()),
        Value::Int(number) => Value::text(number.to_string()),
        Value::Uint(number) => Value::text(number.to_string()),
        Value::Double(number) => Value::text(double_text(*number)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::text(text),
            Err(_) => return Err(Fault::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(time) => Value::text(time.to_string()),
        Value::Duration(nanos) => Value::text(time::duration_text(*nanos)),
        Value::Opaque(opaque) => Value::text(opaque.text().ok_or_else(Fault::no_such_overload)?),
        _ => return Err(Fault::no_such_overload()),
    })
}

/// The shortest form, with an exponent where the number is very large or small.
pub(super) fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    number.to_string()
}
