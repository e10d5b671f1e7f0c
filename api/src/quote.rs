//! Values as Go prints them: messages of errors show refused values so.

use std::fmt::Write;

use serde_json::Value;

/// The text in double quotes, with what cannot be printed escaped.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Writing to a string cannot fail.
            '\0'..='\x1f' | '\x7f' => drop(write!(quoted, "\\x{:02x}", u32::from(character))),
            '\u{80}'..='\u{a0}' => drop(write!(quoted, "\\u{:04x}", u32::from(character))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A JSON value as Go's `%+v` prints the decoded form.
pub fn plain(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(plain).collect())),
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            format!(
                "map[{}]",
                joined(names.into_iter().map(|name| format!("{name}:{}", plain(&fields[name]))).collect())
            )
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_does() {
        for (text, want) in [
            ("plain", r#""plain""#),
            ("a\"b\\", r#""a\"b\\""#),
            ("\x07\x08\t\n\x0b\x0c\r", r#""\a\b\t\n\v\f\r""#),
            ("\0\x1b\x7f", r#""\x00\x1b\x7f""#),
            ("\u{85}ä'", r#""\u0085ä'""#),
        ] {
            assert_eq!(quote(text), want);
        }
    }
    #[test]
    fn values_are_printed_as_go_does() {
        let value = serde_json::json!({"b": [1, "x y", null], "a": {"t": true, "f": 1.5}, "e": {}});
        assert_eq!(plain(&value), "map[a:map[f:1.5 t:true] b:[1 x y <nil>] e:map[]]");
    }
}
