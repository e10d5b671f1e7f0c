//! Operators, equality, order, size and membership.

use std::{cmp::Ordering, sync::Arc};

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    limits::{RANGE_MAX, STRING_BYTES_MAX},
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "_==_" => |args| Ok(Value::Bool(args.get(0)?.equals(args.get(1)?, args.work))),
        "_!=_" => |args| Ok(Value::Bool(!args.get(0)?.equals(args.get(1)?, args.work))),
        "_<_" => |args| order(args, Ordering::is_lt),
        "_<=_" => |args| order(args, Ordering::is_le),
        "_>_" => |args| order(args, Ordering::is_gt),
        "_>=_" => |args| order(args, Ordering::is_ge),
        "_+_" => add,
        "_-_" => subtract,
        "_*_" => multiply,
        "_/_" => divide,
        "_%_" => modulo,
        "-_" => negate,
        "!_" => |args| match args.get(0)? {
            Value::Bool(value) => Ok(Value::Bool(!value)),
            _ => Err(Fault::no_such_overload()),
        },
        "_[_]" => |args| index(args, false),
        "_[?_]" => |args| index(args, true),
        "@in" => member,
        "size" => size,
        "type" => |args| Ok(Value::Type(args.get(0)?.type_name().into())),
        _ => return None,
    })
}

fn overflow() -> Fault {
    Fault::new("integer overflow")
}

fn order<'a>(args: &Args<'_, 'a>, wanted: fn(Ordering) -> bool) -> Result<Value<'a>, Fault> {
    let (a, b) = (args.get(0)?, args.get(1)?);
    if let (Value::Double(number), _) | (_, Value::Double(number)) = (a, b)
        && number.is_nan()
    {
        return Ok(Value::Bool(false));
    }
    a.compare(b).map(|order| Value::Bool(wanted(order))).ok_or_else(Fault::no_such_overload)
}

fn timestamp<'a>(nanos: i128) -> Result<Value<'a>, Fault> {
    let in_years = |time: &jiff::Timestamp| (-62_135_596_800..=253_402_300_799).contains(&time.as_second());
    let time = jiff::Timestamp::from_nanosecond(nanos).ok().filter(in_years);
    time.map(Value::Timestamp).ok_or_else(|| Fault::new("timestamp overflow"))
}

fn add<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(match (args.get(0)?, args.get(1)?) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => {
            Value::Uint(a.checked_add(*b).ok_or_else(|| Fault::new("unsigned integer overflow"))?)
        }
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            too_long(a.len() + b.len())?;
            Value::text([&**a, &**b].concat())
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            too_long(a.len() + b.len())?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        (Value::List(a), Value::List(b)) => {
            if a.len() + b.len() > RANGE_MAX as usize {
                return Err(Fault::new("list is too long"));
            }
            Value::List(a.concat(b, args.work))
        }
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_add(*b).ok_or_else(|| Fault::new("duration overflow"))?)
        }
        (Value::Timestamp(time), Value::Duration(nanos)) | (Value::Duration(nanos), Value::Timestamp(time)) => {
            timestamp(time.as_nanosecond() + i128::from(*nanos))?
        }
        _ => return Err(Fault::no_such_overload()),
    })
}

pub(crate) fn too_long(bytes: usize) -> Result<(), Fault> {
    if bytes > STRING_BYTES_MAX { Err(Fault::new("string is too long")) } else { Ok(()) }
}

fn subtract<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(match (args.get(0)?, args.get(1)?) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => {
            Value::Uint(a.checked_sub(*b).ok_or_else(|| Fault::new("unsigned integer overflow"))?)
        }
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_sub(*b).ok_or_else(|| Fault::new("duration overflow"))?)
        }
        (Value::Timestamp(time), Value::Duration(nanos)) => timestamp(time.as_nanosecond() - i128::from(*nanos))?,
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = i64::try_from(a.as_nanosecond() - b.as_nanosecond());
            Value::Duration(nanos.map_err(|_| Fault::new("duration overflow"))?)
        }
        _ => return Err(Fault::no_such_overload()),
    })
}

fn multiply<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(match (args.get(0)?, args.get(1)?) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => {
            Value::Uint(a.checked_mul(*b).ok_or_else(|| Fault::new("unsigned integer overflow"))?)
        }
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(Fault::no_such_overload()),
    })
}

fn divide<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(match (args.get(0)?, args.get(1)?) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(Fault::new("division by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(Fault::no_such_overload()),
    })
}

fn modulo<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    Ok(match (args.get(0)?, args.get(1)?) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(Fault::new("modulus by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        _ => return Err(Fault::no_such_overload()),
    })
}

fn negate<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    match args.get(0)? {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or_else(overflow),
        Value::Double(number) => Ok(Value::Double(-number)),
        Value::Duration(nanos) => nanos.checked_neg().map(Value::Duration).ok_or_else(overflow),
        _ => Err(Fault::no_such_overload()),
    }
}

/// A whole number in any form that can be a position.
fn position(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Uint(number) => i64::try_from(*number).ok(),
        Value::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
        _ => None,
    }
}

fn index<'a>(args: &Args<'_, 'a>, optional: bool) -> Result<Value<'a>, Fault> {
    let (mut target, key) = (args.get(0)?, args.get(1)?);
    let mut wrapped = optional;
    if let Value::Optional(inner) = target {
        wrapped = true;
        match inner {
            Some(inner) => target = inner,
            None => return Ok(Value::Optional(None)),
        }
    }
    let found = match target {
        Value::List(list) => {
            let at = position(key).ok_or_else(Fault::no_such_overload)?;
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            found.ok_or_else(|| Fault::new(format!("index out of bounds: {at}")))
        }
        Value::Map(map) => map.get(key, args.work).ok_or_else(|| Fault::new(format!("no such key: {}", shown(key)))),
        _ => return Err(Fault::no_such_overload()),
    };
    if wrapped { Ok(Value::Optional(found.ok().map(Arc::new))) } else { found }
}

/// A key as messages show it.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => other.type_name().to_owned(),
    }
}

fn member<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    match args.get(1)? {
        Value::List(list) => Ok(Value::Bool(list.contains(args.get(0)?, args.work))),
        Value::Map(map) => Ok(Value::Bool(map.get(args.get(0)?, args.work).is_some())),
        _ => Err(Fault::no_such_overload()),
    }
}

fn size<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    match args.get(0)? {
        value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_)) => {
            Ok(Value::Int(value.size() as i64))
        }
        _ => Err(Fault::no_such_overload()),
    }
}
