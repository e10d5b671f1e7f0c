//! Compiled `pattern`s of custom resources' schemas, kept because compiling one
//! costs a thousand times what matching does.

use std::{collections::HashMap, sync::LazyLock};

use parking_lot::RwLock;
use regex::Regex;

/// Patterns kept; beyond that all are forgotten, and those in use come back.
const KEPT_MAX: usize = 512;

static COMPILED: LazyLock<RwLock<HashMap<String, Option<Regex>>>> = LazyLock::new(RwLock::default);

/// Whether the text matches; nothing matches a pattern that does not compile, which a definition cannot hold.
pub(super) fn is_match(pattern: &str, text: &str) -> bool {
    let known = COMPILED.read().get(pattern).cloned();
    let regex = known.unwrap_or_else(|| {
        let regex = Regex::new(pattern).ok();
        let mut all = COMPILED.write();
        if all.len() >= KEPT_MAX {
            all.clear();
        }
        all.insert(pattern.to_owned(), regex.clone());
        regex
    });
    regex.is_some_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_first_time_and_later_however_many_there_are() {
        for _ in 0..2 {
            for i in 0..=KEPT_MAX {
                assert!(is_match(&format!("^a{i}$"), &format!("a{i}")) && !is_match(&format!("^a{i}$"), "b"));
            }
            assert!(!is_match("(", "("));
        }
        assert!(COMPILED.read().len() <= KEPT_MAX);
    }
}
