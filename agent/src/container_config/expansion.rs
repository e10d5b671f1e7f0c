//! `$(NAME)` references in commands, arguments, environment values and sub-paths.

/// Replaces `$(NAME)` by what `lookup` knows and `$$` by `$`; unknown names stay as written.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    walk(text, &mut |name| lookup(name))
}

/// Like [`expand`], but names an unknown variable instead of leaving it.
pub fn expand_strict(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut missing = None;
    let expanded = walk(text, &mut |name| {
        let value = lookup(name);
        if value.is_none() && missing.is_none() {
            missing = Some(name.to_owned());
        }
        value
    });
    match missing {
        Some(name) => Err(name),
        None => Ok(expanded),
    }
}

fn walk(text: &str, lookup: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_escapes_kept() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &lookup), expected, "{text}");
        }
        assert_eq!(expand_strict("$(A)/$(B)", &lookup), Err("B".to_owned()));
    }
}
