//! Cost of a call that was made.

use super::{AUTHORIZATION, PATTERN, TEXT, scale};
use crate::{check::Call, library::opaque::Opaque, value::Value};

/// Making a list, a map, an object.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;
/// Part of every overload of the set and list libraries.
const CALL: u64 = 1;

/// What one call costs, arguments not included.
pub(crate) fn call(call: &Call, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let size = |index: usize| args.get(index).map_or(1, Value::size);
    let text = |index: usize, factor: f64| scale(size(index), factor * TEXT);
    let function = call.function.name.as_str();
    match function {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" => LIST + text(1, 1.0) + scale(scale(size(1), 0.5), (LIST + STRUCT) as f64),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            let mut left = TRAVERSED_MAX;
            args.first().map_or(0, |value| traversal(value, &mut left))
        }
        "url" | "isURL" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            if function == "isURL" { 1 } else { text(0, 1.0) }
        }
        "replace" | "split" => text(0, 2.0),
        "join" => result.map_or(1, |result| scale(result.size(), 2.0 * TEXT)),
        "find" | "findAll" | "matches" => scale(size(0) + 1, TEXT) * scale(size(1), PATTERN),
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => text(0, 1.0),
        "ip" => match args.first() {
            Some(Value::Opaque(_)) => 1,
            _ => text(0, 1.0),
        },
        "ip.isCanonical" => text(0, 2.0),
        "containsIP" | "containsCIDR" => {
            let parse = if matches!(args.get(1), Some(Value::String(_))) { text(1, 1.0) } else { 0 };
            let mask = if function == "containsCIDR" { text(0, 1.0) + 1 } else { 0 };
            text(0, 2.0) + mask + parse
        }
        "validate" => {
            let pattern = match args.first() {
                Some(Value::Opaque(opaque)) => match &**opaque {
                    Opaque::Format(format) => format.pattern_len_max,
                    _ => 0,
                },
                _ => 0,
            };
            scale(size(1) + 1, TEXT) * scale(pattern, PATTERN)
        }
        "startsWith" | "endsWith" | "strings.quote" | "format" => text(0, 1.0),
        "bytes" | "string" if matches!(args.first(), Some(Value::String(_) | Value::Bytes(_))) => {
            let same = matches!(
                (function, args.first()),
                ("string", Some(Value::String(_))) | ("bytes", Some(Value::Bytes(_)))
            );
            if same { 1 } else { text(0, 1.0) }
        }
        "@in" => match args.get(1) {
            Some(Value::List(list)) => list.len() as u64,
            _ => 1,
        },
        "_==_" | "_!=_" => match args.first() {
            Some(Value::Opaque(_)) => 1,
            _ => scale(size(0).min(size(1)), TEXT),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => scale(size(0).min(size(1)), TEXT),
            _ => 1,
        },
        "_+_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => scale(size(0) + size(1), TEXT),
            _ => 1,
        },
        "contains" => text(0, 1.0) * text(1, 1.0),
        "sets.contains" | "sets.intersects" => CALL + size(0) * size(1),
        "sets.equivalent" => CALL + 2 * size(0) * size(1),
        "slice" | "lists.range" | "reverse" => CALL + LIST + result.map_or(0, Value::size),
        "flatten" => {
            let depth = if let Some(Value::Int(depth)) = args.get(1) { (*depth).max(0) as u64 } else { 1 };
            CALL + LIST + size(0).saturating_mul(depth)
        }
        "distinct" | "sort" => self_compare(args.first()),
        "@sortByAssociatedKeys" => self_compare(args.get(1)),
        _ => 1,
    }
}

/// Every element against every other.
fn self_compare(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return CALL + LIST };
    let text = matches!(list.get(0), Some(Value::String(_) | Value::Bytes(_)));
    let size = list.len() as u64;
    CALL + LIST + scale(size.saturating_mul(size), if text { 2.0 + TEXT } else { 2.0 })
}

/// Values that are looked at to find out what looking at them costs; more than the largest budget pays for.
const TRAVERSED_MAX: u64 = 2_000_000;

/// Cost of looking at everything in a value.
fn traversal(value: &Value<'_>, left: &mut u64) -> u64 {
    if *left == 0 {
        return u64::from(u32::MAX);
    }
    *left -= 1;
    match value {
        Value::String(text) => (text.len() as f64 * TEXT) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TEXT) as u64,
        Value::List(list) => list.iter().map(|item| traversal(&item, left)).fold(0, u64::saturating_add),
        Value::Map(map) => {
            map.iter().map(|(key, value)| traversal(&key, left) + traversal(&value, left)).fold(0, u64::saturating_add)
        }
        _ => 1,
    }
}
