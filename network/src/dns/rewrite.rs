//! The `rewrite` plugin: other questions than the client asked, and answers that do not show it.

use regex::Regex;

use super::{
    message::{Answer, Query, RecordData},
    name::Name,
};

/// How names are recognised.
#[derive(Clone, Debug)]
pub enum Matcher {
    Exact(Name),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// How names in answers are changed back.
#[derive(Clone, Debug)]
pub struct AnswerRule {
    pub pattern: Regex,
    pub replacement: String,
    /// Changes the values of records instead of their names.
    pub is_value: bool,
}

/// What a rule changes.
#[derive(Clone, Debug)]
pub enum Rule {
    Name { matcher: Matcher, replacement: String, answers: Vec<AnswerRule>, goes_on: bool },
    Type { from: u16, to: u16, goes_on: bool },
    Ttl { matcher: Matcher, min: u32, max: u32 },
}

/// What must be done to the answer.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// Names asked instead, with what they stand for.
    names: Vec<(Name, Name)>,
    answers: Vec<AnswerRule>,
    ttl: Option<(u32, u32)>,
}

/// Applies the rules in order; the first that fits is the last, unless it goes on.
pub fn apply(rules: &[Rule], query: &Query) -> Option<(Query, Undo)> {
    let mut undo = Undo::default();
    let mut current = query.clone();
    for rule in rules {
        match rule {
            Rule::Name { matcher, replacement, answers, goes_on } => {
                let Some(name) = matcher.rewrite(&current.name, replacement) else { continue };
                undo.names.push((name.clone(), query.name.clone()));
                undo.answers.extend(answers.iter().cloned());
                current = current.ask_instead(name, current.record_type);
                if !goes_on {
                    break;
                }
            }
            Rule::Type { from, to, goes_on } => {
                if current.record_type != *from {
                    continue;
                }
                current = current.ask_instead(current.name.clone(), *to);
                if !goes_on {
                    break;
                }
            }
            Rule::Ttl { matcher, min, max } => {
                if matcher.matches(&current.name) {
                    undo.ttl = Some((*min, *max));
                    break;
                }
            }
        }
    }
    (current != *query || undo.ttl.is_some()).then_some((current, undo))
}

impl Undo {
    /// Makes an answer look as if the original question had been asked.
    pub fn restore(&self, answer: &mut Answer) {
        let records = answer.answers.iter_mut().chain(&mut answer.authority).chain(&mut answer.additional);
        for record in records {
            if let Some((_, original)) = self.names.iter().find(|(asked, _)| *asked == record.name) {
                record.name = original.clone();
            }
            for rule in &self.answers {
                if rule.is_value {
                    rewrite_value(rule, &mut record.data);
                } else if let Some(name) = replace(rule, &record.name) {
                    record.name = name;
                }
            }
            if let Some((min, max)) = self.ttl {
                record.ttl = record.ttl.clamp(min, max);
            }
        }
    }
}

fn replace(rule: &AnswerRule, name: &Name) -> Option<Name> {
    let text = name.to_string();
    let captures = rule.pattern.captures(&text)?;
    expand(&rule.replacement, &captures).parse().ok()
}

fn rewrite_value(rule: &AnswerRule, data: &mut RecordData) {
    let name = match data {
        RecordData::Cname(name) | RecordData::Ptr(name) | RecordData::Ns(name) => name,
        RecordData::Mx { exchange, .. } => exchange,
        RecordData::Srv { target, .. } => target,
        _ => return,
    };
    if let Some(new) = replace(rule, name) {
        *name = new;
    }
}

/// `{1}` stands for the first group.
fn expand(replacement: &str, captures: &regex::Captures<'_>) -> String {
    let mut text = replacement.to_owned();
    for (index, group) in captures.iter().enumerate() {
        text = text.replace(&format!("{{{index}}}"), group.map_or("", |group| group.as_str()));
    }
    text
}

impl Matcher {
    fn matches(&self, name: &Name) -> bool {
        self.rewrite(name, ".").is_some()
    }

    /// The new name; texts are compared in lower case and with the final dot.
    fn rewrite(&self, name: &Name, replacement: &str) -> Option<Name> {
        let text = name.to_string();
        let rewritten = match self {
            Matcher::Exact(want) => (want == name).then(|| replacement.to_owned())?,
            Matcher::Prefix(prefix) => format!("{replacement}{}", text.strip_prefix(prefix.as_str())?),
            Matcher::Suffix(suffix) => {
                let rest = text
                    .strip_suffix(suffix.as_str())
                    .or_else(|| text.strip_suffix('.')?.strip_suffix(suffix.as_str()))?;
                format!("{rest}{replacement}")
            }
            Matcher::Substring(part) => {
                text.contains(part.as_str()).then(|| text.replace(part.as_str(), replacement))?
            }
            Matcher::Regex(pattern) => expand(replacement, &pattern.captures(&text)?),
        };
        rewritten.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::message::Record;

    fn query(name: &str) -> Query {
        Query::new(1, name.parse().unwrap(), 1, true)
    }

    fn rule(matcher: Matcher, replacement: &str) -> Rule {
        Rule::Name { matcher, replacement: replacement.into(), answers: vec![], goes_on: false }
    }

    #[test]
    fn names_are_changed_and_answers_changed_back() {
        let rules = [rule(Matcher::Exact("old.example".parse().unwrap()), "new.example")];
        let (asked, undo) = apply(&rules, &query("OLD.example")).unwrap();
        assert_eq!(asked.name.to_string(), "new.example.");
        let record = Record::new(asked.name.clone(), 30, RecordData::A([1, 2, 3, 4].into()));
        let mut answer = Answer { answers: vec![record], ..Answer::default() };
        undo.restore(&mut answer);
        assert_eq!(answer.answers[0].name.to_string(), "old.example.");
        assert!(apply(&rules, &query("other.example")).is_none());
    }

    #[test]
    fn every_way_to_match_works() {
        let rewritten = |matcher: Matcher, replacement: &str, name: &str| {
            apply(&[rule(matcher, replacement)], &query(name)).map(|(query, _)| query.name.to_string())
        };
        assert_eq!(rewritten(Matcher::Suffix(".old.".into()), ".new.", "a.old").as_deref(), Some("a.new."));
        assert_eq!(rewritten(Matcher::Suffix(".old".into()), ".new", "a.old").as_deref(), Some("a.new."));
        assert_eq!(rewritten(Matcher::Prefix("a-".into()), "b-", "a-x.y").as_deref(), Some("b-x.y."));
        assert_eq!(rewritten(Matcher::Substring("mid".into()), "center", "x.mid.y").as_deref(), Some("x.center.y."));
        let pattern = Matcher::Regex(Regex::new(r"(.*)\.in\.(.*)\.").unwrap());
        assert_eq!(rewritten(pattern, "{1}.out.{2}.", "a.in.b").as_deref(), Some("a.out.b."));
    }
}
