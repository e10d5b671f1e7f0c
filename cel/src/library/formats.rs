//! Named formats: what a name, a label or a date must look like.

use base64::Engine as _;

use super::opaque::Opaque;
use crate::{fault::Fault, functions::Implementation, time, value::Value};

/// A format.
#[derive(Debug)]
pub struct Format {
    /// As `format.named` knows it.
    pub name: &'static str,
    /// Length of the pattern that costs are computed from.
    pub pattern_len_max: u64,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", pattern_len_max: 30, check: |text| label(text, false) },
    Format { name: "dns1123Subdomain", pattern_len_max: 60, check: |text| subdomain(text, false) },
    Format { name: "dns1035Label", pattern_len_max: 30, check: |text| label_1035(text, false) },
    Format { name: "qualifiedName", pattern_len_max: 60, check: qualified_name },
    Format { name: "dns1123LabelPrefix", pattern_len_max: 30, check: |text| label(text, true) },
    Format { name: "dns1123SubdomainPrefix", pattern_len_max: 60, check: |text| subdomain(text, true) },
    Format { name: "dns1035LabelPrefix", pattern_len_max: 30, check: |text| label_1035(text, true) },
    Format { name: "labelValue", pattern_len_max: 40, check: label_value },
    Format { name: "uri", pattern_len_max: 1000, check: uri },
    Format { name: "uuid", pattern_len_max: 90, check: |text| unless(is_uuid(text), "does not match the UUID format") },
    Format {
        name: "byte",
        pattern_len_max: 84,
        check: |text| unless(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64"),
    },
    Format {
        name: "date",
        pattern_len_max: 100,
        check: |text| unless(text.len() == 10 && time::timestamp(text).is_some(), "invalid date"),
    },
    Format {
        name: "datetime",
        pattern_len_max: 100,
        check: |text| unless(text.len() > 10 && time::timestamp(text).is_some(), "invalid datetime"),
    },
];

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "validate" => |args| match args.get(0)? {
            Value::Opaque(opaque) => match &**opaque {
                Opaque::Format(format) => {
                    let errors = (format.check)(args.text(1)?);
                    if errors.is_empty() {
                        return Ok(Value::Optional(None));
                    }
                    Ok(Value::some(Value::list(errors.into_iter().map(Value::text).collect())))
                }
                _ => Err(Fault::no_such_overload()),
            },
            _ => Err(Fault::no_such_overload()),
        },
        "format.named" => |args| {
            let found = named(args.text(0)?);
            Ok(found.map_or(Value::Optional(None), |format| Value::some(Value::opaque(Opaque::Format(format)))))
        },
        "format.dns1123Label" => |_| constant("dns1123Label"),
        "format.dns1123Subdomain" => |_| constant("dns1123Subdomain"),
        "format.dns1035Label" => |_| constant("dns1035Label"),
        "format.qualifiedName" => |_| constant("qualifiedName"),
        "format.dns1123LabelPrefix" => |_| constant("dns1123LabelPrefix"),
        "format.dns1123SubdomainPrefix" => |_| constant("dns1123SubdomainPrefix"),
        "format.dns1035LabelPrefix" => |_| constant("dns1035LabelPrefix"),
        "format.labelValue" => |_| constant("labelValue"),
        "format.uri" => |_| constant("uri"),
        "format.uuid" => |_| constant("uuid"),
        "format.byte" => |_| constant("byte"),
        "format.date" => |_| constant("date"),
        "format.datetime" => |_| constant("datetime"),
        _ => return None,
    })
}

fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

fn constant<'a>(name: &str) -> Result<Value<'a>, Fault> {
    named(name).map(|format| Value::opaque(Opaque::Format(format))).ok_or_else(Fault::no_such_overload)
}

fn unless(good: bool, message: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![message.to_owned()] }
}

fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-') && !text.is_empty()
}

fn too_long(text: &str, max: usize) -> Vec<String> {
    unless(text.len() <= max, &format!("must be no more than {max} bytes"))
}

/// A prefix may end with a dash: something follows.
fn masked(text: &str, prefix: bool) -> String {
    match text.strip_suffix('-') {
        Some(start) if prefix && !start.is_empty() => format!("{start}a"),
        _ => text.to_owned(),
    }
}

fn label(text: &str, prefix: bool) -> Vec<String> {
    let text = masked(text, prefix);
    let mut errors = too_long(&text, 63);
    if !is_label_text(&text) {
        errors.push(
            if text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-') && text.contains('.') {
                "must not contain dots".to_owned()
            } else {
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".to_owned()
            },
        );
    }
    errors
}

fn subdomain(text: &str, prefix: bool) -> Vec<String> {
    let text = masked(text, prefix);
    let mut errors = too_long(&text, 253);
    if text.is_empty() || !text.split('.').all(is_label_text) {
        errors.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    errors
}

fn label_1035(text: &str, prefix: bool) -> Vec<String> {
    let text = masked(text, prefix);
    let mut errors = too_long(&text, 63);
    if !is_label_text(&text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        errors.push("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    errors
}

fn is_name_text(text: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    outer(text.as_bytes().first()) && outer(text.as_bytes().last()) && text.bytes().all(inner)
}

fn qualified_name(text: &str) -> Vec<String> {
    let pattern = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let parts: Vec<&str> = text.split('/').collect();
    let mut errors = Vec::new();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain(prefix, false).into_iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {pattern} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name_text(name) {
        errors.push(format!("name part {pattern}"));
    }
    errors
}

fn label_value(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !text.is_empty() && !is_name_text(text) {
        errors.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    errors
}

fn uri(text: &str) -> Vec<String> {
    match super::url::check(text) {
        Ok(()) => Vec::new(),
        Err(why) => vec![format!("parse {text:?}: {why}")],
    }
}

fn is_uuid(text: &str) -> bool {
    let hex: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = hex.iter().map(|part| part.len()).collect();
    let shape = lengths == [8, 4, 4, 4, 12] || lengths == [32];
    shape && hex.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
