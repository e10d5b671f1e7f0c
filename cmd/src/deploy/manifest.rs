//! From the text of a file to the objects in it.

use serde_json::Value;
use skiff_api::GroupVersionKind;

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub gvk: GroupVersionKind,
    pub name: String,
    /// Empty when the file does not say.
    pub namespace: String,
    pub object: Value,
}

/// Reads all documents; a `List` counts as its items. One bad document spoils
/// the file: nothing of it is applied. The error names document and line.
pub fn parse(text: &str) -> Result<Vec<Document>, String> {
    let mut documents = Vec::new();
    for (number, (line, part)) in split(text).into_iter().enumerate() {
        let place = |message: String| format!("document {} (from line {line}): {message}", number + 1);
        let value: Value = serde_saphyr::from_str(&part).map_err(|error| place(error.to_string()))?;
        if value.is_null() {
            continue;
        }
        match value.get("items").and_then(Value::as_array) {
            Some(items) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                for item in items {
                    documents.push(document(item.clone()).map_err(place)?);
                }
            }
            _ => documents.push(document(value).map_err(place)?),
        }
    }
    Ok(documents)
}

fn document(object: Value) -> Result<Document, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    for (field, value) in [("apiVersion", &api_version), ("kind", &kind), ("metadata.name", &name)] {
        if value.is_empty() {
            return Err(format!("{field} is missing"));
        }
    }
    let namespace = text("/metadata/namespace");
    Ok(Document { gvk: GroupVersionKind::parse(&api_version, &kind), name, namespace, object })
}

/// Documents with the number of their first line; those of comments only are dropped.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push((index + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let has_content = |part: &str| part.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
    parts.retain(|(_, part)| has_content(part));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_comments_are_told_apart() {
        let text = "# head\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: b, namespace: c}\n";
        let documents = parse(text).unwrap();
        let names: Vec<_> = documents.iter().map(|document| (document.name.as_str(), &*document.gvk.group)).collect();
        assert_eq!(names, [("a", ""), ("b", "apps")]);
        assert_eq!(documents[1].namespace, "c");
    }

    #[test]
    fn a_bad_document_is_named_with_its_line() {
        let error = parse("apiVersion: v1\nkind: A\nmetadata: {name: a}\n---\nkind: B\n").unwrap_err();
        assert!(error.starts_with("document 2 (from line 5): apiVersion is missing"), "{error}");
        assert!(parse("a: [").unwrap_err().contains("document 1"));
    }
}
