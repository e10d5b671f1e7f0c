//! Where keys stand twice in block YAML, in the words of upstream's decoder.

use std::collections::HashSet;

/// `line N: key "k" already set in map` for every key that repeats one of its
/// map. Flow style (`{a: 1, a: 2}`) is not looked into.
pub fn describe(text: &str) -> Vec<String> {
    // Open maps: indentation and keys.
    let mut open: Vec<(usize, HashSet<&str>)> = Vec::new();
    let mut found = Vec::new();
    let mut literal: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        let mut indent = line.len() - content.len();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if literal.is_some_and(|at| indent > at) {
            continue;
        }
        literal = None;
        if content.starts_with("---") {
            open.clear();
            continue;
        }
        let mut rest = content;
        while let Some(item) = rest.strip_prefix("- ") {
            // An item begins: maps of the item before are over.
            open.retain(|(at, _)| *at <= indent);
            let inner = item.trim_start();
            indent += rest.len() - inner.len();
            open.retain(|(at, _)| *at < indent);
            rest = inner;
        }
        let Some((key, value)) = split_key(rest) else { continue };
        while open.last().is_some_and(|(at, _)| *at > indent) {
            open.pop();
        }
        if open.last().is_none_or(|(at, _)| *at < indent) {
            open.push((indent, HashSet::new()));
        }
        if let Some((_, keys)) = open.last_mut()
            && !keys.insert(key)
        {
            found.push(format!("line {}: key {key:?} already set in map", number + 1));
        }
        if value.starts_with(['|', '>']) {
            literal = Some(indent);
        }
    }
    found
}

/// `key: value` or `key:`.
fn split_key(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['{', '[']) {
        return None;
    }
    let (key, value) = match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let end = text[1..].find(quote)? + 1;
            (&text[1..end], text[end + 1..].trim_start().strip_prefix(':')?)
        }
        _ => {
            let at = text.match_indices(':').find(|(at, _)| {
                let after = text[at + 1..].chars().next();
                after.is_none_or(char::is_whitespace)
            })?;
            (text[..at.0].trim_end(), &text[at.0 + 1..])
        }
    };
    Some((key, value.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_found_where_they_stand() {
        let text = "\na: 1\nb:\n  c: 1\n  d: |\n    c: text\n    c: text\n  c: 2\nl:\n- x: 1\n  y: 2\n- x: 3\n  x: 4\ne: {x: 1, x: 2}\n\"a\": 5\n";
        assert_eq!(
            describe(text),
            [
                "line 8: key \"c\" already set in map",
                "line 13: key \"x\" already set in map",
                "line 15: key \"a\" already set in map"
            ]
        );
        assert!(describe("{\"a\": 1}").is_empty());
    }
}
