//! YAML as `sigs.k8s.io/yaml` reads it: converted to JSON, then decoded as JSON.
//!
//! YAML 1.1 booleans (`yes`, `off`) and octal integers are resolved, merge keys
//! expanded, duplicates recorded, aliases bounded.

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::{
    Decoded,
    json::{self, JsonError},
    strict::{Path, Tree},
};
use crate::schema::Root;

/// Parses the first YAML document, as Go decoders do; returns the value and the paths of duplicate keys.
pub fn parse(body: &[u8]) -> Result<(Value, Vec<String>), JsonError> {
    let syntax =
        |error: &dyn std::fmt::Display| JsonError::Syntax(format!("error converting YAML to JSON: yaml: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| syntax(&error))?;
    let text = first_document(text);
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let duplicates = RefCell::default();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Tree { path: &Path::ROOT, duplicates: &duplicates }.deserialize(deserializer)
    })
    .map_err(|error| syntax(&error))?;
    Ok((value, duplicates.into_inner()))
}

/// The text up to the second document. A marker in the first column separates
/// documents wherever it stands, also inside a scalar.
fn first_document(text: &str) -> &str {
    let (mut at, mut begun) = (0, false);
    for line in text.split_inclusive('\n') {
        let marker = ["---", "..."].iter().find_map(|marker| line.strip_prefix(marker));
        let rest = marker.filter(|rest| rest.is_empty() || rest.starts_with(|next: char| next.is_ascii_whitespace()));
        if begun && rest.is_some() {
            return &text[..at];
        }
        let content = rest.unwrap_or(line).trim_start();
        begun |= !content.is_empty() && !content.starts_with('#') && !line.starts_with('%');
        at += line.len();
    }
    text
}

/// Decodes a YAML body against the schema of its kind.
pub fn decode(root: Option<&Root>, body: &[u8]) -> Result<Decoded, JsonError> {
    let (value, duplicate) = parse(body)?;
    json::finish(root, value, duplicate)
}

/// Writes a value as YAML that reads back equal under YAML 1.1 and 1.2.
pub fn encode(value: &Value) -> Result<String, JsonError> {
    serde_saphyr::to_string(value).map_err(|error| JsonError::Syntax(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;
    use serde_json::json;

    #[test]
    fn scalars_resolve_as_in_yaml_1_1() {
        let (value, _) =
            parse(b"a: yes\nb: \"yes\"\nc: 0644\nd: 1.5\ne: ~\nf: off\ng: 1e3\nh: 2024-01-01\ni: 0x1f\n").unwrap();
        assert_eq!(
            value,
            json!({"a": true, "b": "yes", "c": 420, "d": 1.5, "e": null, "f": false, "g": 1000, "h": "2024-01-01", "i": 31})
        );
    }

    #[test]
    fn merge_keys_and_anchors_expand_and_duplicates_are_named() {
        let (value, duplicates) = parse(b"base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\nd: {k: 1, k: 2}\n").unwrap();
        assert_eq!(value, json!({"base": {"x": 1}, "use": {"x": 1, "y": 2}, "d": {"k": 2}}));
        assert_eq!(duplicates, ["d.k"]);
    }

    #[test]
    fn json_is_yaml() {
        let (value, _) = parse(br#"{"a": [1, "x", {"b": null}]}"#).unwrap();
        assert_eq!(value, json!({"a": [1, "x", {"b": null}]}));
    }

    #[test]
    fn output_reads_back_equal() {
        let value = json!({"a": "yes", "b": "0644", "c": "null", "d": ["x", {"e": "1.0", "f": ""}], "g": "multi\nline\n", "h": "a: b", "i": true, "j": 5, "k": {}, "l": []});
        let text = encode(&value).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap().0, value, "{text}");
    }

    #[test]
    fn bodies_are_checked_against_the_schema() {
        let root = Root::for_kind(&GroupVersionKind::new("", "v1", "ConfigMap")).unwrap();
        let decoded = decode(Some(&root), b"kind: ConfigMap\ndata: {a: b}\nfoo: 1\n").unwrap();
        assert_eq!(decoded.unknown, ["foo"]);
        assert!(decode(Some(&root), b"data: {a: 1}").is_err());
        assert!(decode(Some(&root), b"data: [").is_err());
    }

    #[test]
    fn only_the_first_document_counts() {
        for text in
            ["a: 1\n---\nb: 2\n", "%YAML 1.1\n# x\n--- # y\na: 1\n---\n[", "---\na: 1\n...\n", "a: 1\n--- {b: 2}"]
        {
            assert_eq!(parse(text.as_bytes()).unwrap().0, json!({"a": 1}), "{text}");
        }
        assert_eq!(parse(b"a: |\n  ---\n  x\n").unwrap().0, json!({"a": "---\nx\n"}));
        assert_eq!(parse(b"--- {a: 1}\n").unwrap().0, json!({"a": 1}));
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let reference = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![reference; 10].join(","));
        }
        assert!(parse(text.as_bytes()).is_err());
    }
}
