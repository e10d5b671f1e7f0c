//! Text functions. Positions count characters, not bytes.

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    limits::RANGE_MAX,
    time,
    value::Value,
};

use super::{conversions::double_text, operators::too_long};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "contains" => |args| Ok(Value::Bool(args.text(0)?.contains(args.text(1)?))),
        "startsWith" => |args| Ok(Value::Bool(args.text(0)?.starts_with(args.text(1)?))),
        "endsWith" => |args| Ok(Value::Bool(args.text(0)?.ends_with(args.text(1)?))),
        "lowerAscii" => |args| Ok(Value::text(args.text(0)?.to_ascii_lowercase())),
        "upperAscii" => |args| Ok(Value::text(args.text(0)?.to_ascii_uppercase())),
        "trim" => |args| Ok(Value::text(args.text(0)?.trim())),
        "charAt" => char_at,
        "substring" => substring,
        "replace" => replace,
        "split" => split,
        "join" => join,
        "strings.quote" => |args| Ok(Value::text(quote(args.text(0)?))),
        "format" => format,
        "jsonpatch.escapeKey" => |args| Ok(Value::text(args.text(0)?.replace('~', "~0").replace('/', "~1"))),
        _ => return None,
    })
}

fn char_at<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, at) = (args.text(0)?, args.int(1)?);
    let len = text.chars().count() as i64;
    if at < 0 || at > len {
        return Err(Fault::new(format!("index out of range: {at}")));
    }
    Ok(Value::text(text.chars().nth(at as usize).map(String::from).unwrap_or_default()))
}

/// The byte where a character starts; the end of the text is a place too.
fn byte_of(text: &str, at: i64) -> Option<usize> {
    let at = usize::try_from(at).ok()?;
    text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(at)
}

fn chars_before(text: &str, byte: usize) -> i64 {
    text[..byte].chars().count() as i64
}

pub(super) fn index_of<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, wanted) = (args.text(0)?, args.text(1)?);
    let from = if args.values.len() > 2 { args.int(2)? } else { 0 };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    let Some(start) = byte_of(text, from) else {
        return if text.is_empty() {
            Ok(Value::Int(-1))
        } else {
            Err(Fault::new(format!("index out of range: {from}")))
        };
    };
    let found = text[start..].find(wanted).map(|at| chars_before(text, start + at));
    Ok(Value::Int(found.unwrap_or(-1)))
}

pub(super) fn last_index_of<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, wanted) = (args.text(0)?, args.text(1)?);
    let len = text.chars().count() as i64;
    let from = if args.values.len() > 2 { args.int(2)? } else { len };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    let Some(start) = byte_of(text, from) else {
        return Err(Fault::new(format!("index out of range: {from}")));
    };
    // A match may begin at `start` itself.
    let end = (start + wanted.len()).min(text.len());
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let found = text[..end].rfind(wanted).filter(|at| *at <= start).map(|at| chars_before(text, at));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn substring<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, start) = (args.text(0)?, args.int(1)?);
    let from = byte_of(text, start).ok_or_else(|| Fault::new(format!("index out of range: {start}")))?;
    if args.values.len() == 2 {
        return Ok(Value::text(&text[from..]));
    }
    let end = args.int(2)?;
    let to = byte_of(text, end).ok_or_else(|| Fault::new(format!("index out of range: {end}")))?;
    if start > end {
        return Err(Fault::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Value::text(&text[from..to]))
}

fn replace<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, from, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let limit = if args.values.len() > 3 { args.int(3)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count = text.matches(from).take(limit).count();
    too_long(text.len().saturating_add(count.saturating_mul(to.len())))?;
    Ok(Value::text(text.replacen(from, to, limit)))
}

fn split<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (text, separator) = (args.text(0)?, args.text(1)?);
    let limit = if args.values.len() > 2 { args.int(2)? } else { -1 };
    let limit = match limit {
        0 => return Ok(Value::list(Vec::new())),
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        letters(text, limit).into_iter().map(Value::text).collect()
    } else {
        text.splitn(limit, separator).take(RANGE_MAX as usize + 1).map(Value::text).collect()
    };
    if parts.len() > RANGE_MAX as usize {
        return Err(Fault::new("list is too long"));
    }
    Ok(Value::list(parts))
}

/// Every character, the last part taking what is left.
fn letters(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if parts.len() + 1 >= limit || parts.len() > RANGE_MAX as usize {
            parts.push(rest);
            break;
        }
        let (letter, after) = rest.split_at(first.len_utf8());
        parts.push(letter);
        rest = after;
    }
    parts
}

fn join<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let separator = if args.values.len() > 1 { args.text(1)? } else { "" };
    let mut out = String::new();
    for (number, item) in args.list(0)?.iter().enumerate() {
        if number > 0 {
            out.push_str(separator);
        }
        out.push_str(item.as_str().ok_or_else(Fault::no_such_overload)?);
        too_long(out.len())?;
    }
    Ok(Value::text(out))
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `'%s and %d'.format([a, b])`.
fn format<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (pattern, values) = (args.text(0)?, args.list(1)?);
    let mut out = String::new();
    let mut next = 0;
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            precision = after[..digits].parse::<usize>().ok().filter(|precision| *precision <= 1000);
            if precision.is_none() {
                return Err(Fault::new("could not find end of precision specifier"));
            }
            rest = &after[digits..];
        }
        let clause = rest.chars().next().ok_or_else(|| Fault::new("unexpected end of string"))?;
        rest = &rest[clause.len_utf8()..];
        let value = values.get(next).ok_or_else(|| Fault::new(format!("index {next} out of range")))?;
        next += 1;
        out.push_str(&clause_text(clause, precision, &value)?);
        too_long(out.len())?;
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn clause_text(clause: char, precision: Option<usize>, value: &Value<'_>) -> Result<String, Fault> {
    let wrong = || Fault::new(format!("error during formatting: no formatting function for {}", value.type_name()));
    Ok(match (clause, value) {
        ('s', value) => plain(value, false, 0)?,
        ('d', Value::Int(_) | Value::Uint(_)) => plain(value, false, 0)?,
        ('f', Value::Double(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('f', Value::Int(number)) => format!("{:.*}", precision.unwrap_or(6), *number as f64),
        ('e', Value::Double(number)) => {
            let text = format!("{number:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        ('b', Value::Int(number)) if *number < 0 => format!("-{:b}", number.unsigned_abs()),
        ('b', Value::Int(number)) => format!("{number:b}"),
        ('b', Value::Uint(number)) => format!("{number:b}"),
        ('b', Value::Bool(value)) => u8::from(*value).to_string(),
        ('x', Value::Int(number)) if *number < 0 => format!("-{:x}", number.unsigned_abs()),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('x', Value::Uint(number)) => format!("{number:x}"),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Int(number)) => format!("{number:X}"),
        ('X', Value::Uint(number)) => format!("{number:X}"),
        ('X', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('o', Value::Int(number)) => format!("{number:o}"),
        ('o', Value::Uint(number)) => format!("{number:o}"),
        ('d' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o', _) => return Err(wrong()),
        _ => {
            return Err(Fault::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{clause}\""
            )));
        }
    })
}

/// Passes a part of a text on, as long as the whole does not become too long.
fn counted(part: String, bytes: &mut usize) -> Result<String, Fault> {
    *bytes += part.len() + 2;
    too_long(*bytes)?;
    Ok(part)
}

/// A value as `%s` shows it; texts inside of lists are quoted.
fn plain(value: &Value<'_>, inside: bool, depth: usize) -> Result<String, Fault> {
    if depth > 64 {
        return Err(Fault::new("value is nested too deeply"));
    }
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => double_text(*number),
        Value::String(text) if inside => format!("\"{}\"", &**text),
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Type(name) => name.to_string(),
        Value::List(list) => {
            let mut bytes = 0;
            let items: Vec<String> = list
                .iter()
                .map(|item| counted(plain(&item, true, depth + 1)?, &mut bytes))
                .collect::<Result<_, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut bytes = 0;
            let mut items: Vec<String> = map
                .iter()
                .map(|(key, value)| {
                    let item = format!("{}: {}", plain(&key, true, depth + 1)?, plain(&value, true, depth + 1)?);
                    counted(item, &mut bytes)
                })
                .collect::<Result<_, Fault>>()?;
            items.sort();
            format!("{{{}}}", items.join(", "))
        }
        Value::Optional(Some(inner)) => format!("optional({})", plain(inner, inside, depth + 1)?),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Opaque(opaque) => opaque.text().ok_or_else(Fault::no_such_overload)?,
    })
}
