//! Paths that definitions name: `.spec.color`, `.spec['a.b']`, checked against a schema.

use serde_json::Value;

/// The path without its leading dot, in the form of error fields; why not, otherwise.
pub fn normalize(path: &str, schema: &Value) -> Result<String, String> {
    resolve(path, schema, true).map(|(path, _)| path)
}

/// The path and the schema it leads to. `brackets` allows `['name']`.
pub fn resolve<'s>(path: &str, schema: &'s Value, brackets: bool) -> Result<(String, &'s Value), String> {
    let mut out = String::new();
    let mut schema = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(behind) = rest.strip_prefix('.') {
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            if end == 0 {
                return Err("unexpected end of JSON path".to_owned());
            }
            (behind[..end].to_owned(), &behind[end..])
        } else if let Some(behind) = rest.strip_prefix('[') {
            if !brackets {
                return Err("array notation is not allowed".to_owned());
            }
            quoted_name(behind)?
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            return Err(format!("expected [ or . but got: {}", &rest[..end]));
        };
        rest = after;
        if schema["properties"].is_object() {
            schema = schema["properties"].get(&name).ok_or("does not refer to a valid field")?;
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            out.push_str(&format!("[{name}]"));
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
    }
    Ok((out, schema))
}

/// `'name']`, with escapes; the name and what follows.
fn quoted_name(text: &str) -> Result<(String, &str), String> {
    let inner = text.strip_prefix('\'').ok_or_else(|| {
        let end = text.find(']').unwrap_or(text.len());
        format!("expected single quoted string but got {}", &text[..end])
    })?;
    let mut name = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                let after = &inner[at + 1..];
                return match after.strip_prefix(']') {
                    Some(after) => Ok((name, after)),
                    None if after.is_empty() => Err("unexpected end of JSON path".to_owned()),
                    None => Err(format!("expected ] but got {after}")),
                };
            }
            '\\' => match chars.next() {
                Some((_, escaped @ ('\'' | '\\'))) => name.push(escaped),
                Some((_, 'n')) => name.push('\n'),
                Some((_, 't')) => name.push('\t'),
                Some((_, other)) => return Err(format!("invalid string literal: invalid escape char \\{other}")),
                None => return Err("unexpected end of JSON path".to_owned()),
            },
            c => name.push(c),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_follow_the_schema() {
        let schema = json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"},
            "map": {"additionalProperties": {"type": "string"}}}}}});
        assert_eq!(normalize(".spec['a.b']", &schema).unwrap(), "spec.a.b");
        assert_eq!(normalize(".spec.map['k']", &schema).unwrap(), "spec.map[k]");
        assert_eq!(normalize(".spec.none", &schema).unwrap_err(), "does not refer to a valid field");
        assert_eq!(normalize("spec", &schema).unwrap_err(), "expected [ or . but got: spec");
        assert_eq!(resolve(".spec['a.b']", &schema, false).unwrap_err(), "array notation is not allowed");
        for bad in [".", "..", "[", "['", "['a'", "['a'x", "[0]"] {
            assert!(normalize(bad, &schema).is_err(), "{bad}");
        }
    }
}
