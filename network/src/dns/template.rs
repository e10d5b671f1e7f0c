//! The `template` plugin: answers made from the question by pattern.
//!
//! Of Go's template language, the placeholders are known that such
//! configurations use: `{{ .Name }}`, `.Type`, `.Class`, `.Zone`, `.Group.x`
//! and `{{ index .Match 1 }}`. Anything else is refused when it is read.

use regex::{Captures, Regex};

use super::{
    message::{Answer, CLASS_ANY, CLASS_IN, Query, Rcode, Record, record_type},
    name::Name,
    presentation::{parse_record, type_name},
};

/// A piece of text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Type,
    Class,
    Zone,
    Group(String),
    Match(usize),
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or_else(|| format!("{text:?}: {{{{ is not closed"))?;
            pieces.push(Piece::Text(before.to_owned()));
            let words: Vec<&str> = inside.split_whitespace().collect();
            pieces.push(match words.as_slice() {
                [".Name"] => Piece::Name,
                [".Type"] => Piece::Type,
                [".Class"] => Piece::Class,
                [".Zone"] => Piece::Zone,
                ["index", ".Match", number] => {
                    Piece::Match(number.parse().map_err(|_| format!("{number:?} is not a group's number"))?)
                }
                [word] if word.starts_with(".Group.") => Piece::Group(word[".Group.".len()..].to_owned()),
                _ => return Err(format!("placeholder {:?} is not supported", inside.trim())),
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Pattern(pieces))
    }

    fn fill(&self, query: &Query, zone: &Name, captures: &Captures<'_>) -> String {
        let group = |group: Option<regex::Match<'_>>| group.map_or("", |group| group.as_str()).to_owned();
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Name => query.name.to_string(),
                Piece::Type => type_name(query.record_type).to_owned(),
                Piece::Class => "IN".to_owned(),
                Piece::Zone => zone.to_string(),
                Piece::Group(name) => group(captures.name(name)),
                Piece::Match(number) => group(captures.get(*number)),
            })
            .collect()
    }
}

/// One template.
#[derive(Clone, Debug)]
pub struct Template {
    pub class: u16,
    pub record_type: u16,
    pub zones: Vec<Name>,
    pub matches: Vec<Regex>,
    pub answers: Vec<Pattern>,
    pub additional: Vec<Pattern>,
    pub authority: Vec<Pattern>,
    pub rcode: Rcode,
    pub fallthrough: Vec<Name>,
}

impl Template {
    /// The answer, or `None` when another plugin should be asked.
    pub fn answer(&self, query: &Query) -> Option<Answer> {
        let zone = self.zones.iter().find(|zone| query.name.is_within(zone))?;
        let fits_type = [record_type::ANY, query.record_type].contains(&self.record_type);
        if !fits_type || ![CLASS_ANY, CLASS_IN].contains(&self.class) {
            return None;
        }
        let text = query.name.to_string();
        let Some(captures) = self.matches.iter().find_map(|pattern| pattern.captures(&text)) else {
            let goes_on = self.fallthrough.iter().any(|zone| query.name.is_within(zone));
            return (!goes_on).then(|| Answer::code(Rcode::NAME_ERROR));
        };
        let records = |patterns: &[Pattern]| -> Option<Vec<Record>> {
            let record = |pattern: &Pattern| {
                let text = pattern.fill(query, zone, &captures);
                parse_record(&text)
                    .inspect_err(|error| tracing::warn!(component = "dns", %error, "template gives no record"))
                    .ok()
            };
            patterns.iter().map(record).collect()
        };
        let made = (records(&self.answers), records(&self.authority), records(&self.additional));
        let (Some(answers), Some(authority), Some(additional)) = made else {
            return Some(Answer::code(Rcode::SERVER_FAILURE));
        };
        let answer =
            Answer { rcode: self.rcode, is_authoritative: true, answers, authority, additional, ..Answer::default() };
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_made_from_the_question() {
        let template = Template {
            class: CLASS_IN,
            record_type: record_type::A,
            zones: vec!["ip.example".parse().unwrap()],
            matches: vec![Regex::new(r"^ip-(?P<a>\d+)-(\d+)\.ip\.example\.$").unwrap()],
            answers: vec![Pattern::parse("{{ .Name }} 60 IN A 10.0.{{ .Group.a }}.{{ index .Match 2 }}").unwrap()],
            additional: vec![],
            authority: vec![],
            rcode: Rcode::NO_ERROR,
            fallthrough: vec![],
        };
        let ask = |name: &str, kind| template.answer(&Query::new(1, name.parse().unwrap(), kind, true));
        let answer = ask("ip-7-9.ip.example", 1).unwrap();
        assert_eq!(answer.answers, [parse_record("ip-7-9.ip.example 60 A 10.0.7.9").unwrap()]);
        assert_eq!(ask("other.ip.example", 1).unwrap().rcode, Rcode::NAME_ERROR);
        assert_eq!(ask("ip-7-999.ip.example", 1).unwrap().rcode, Rcode::SERVER_FAILURE);
        assert!(ask("ip-7-9.ip.example", 28).is_none());
        assert!(ask("example", 1).is_none());
    }

    #[test]
    fn unknown_placeholders_are_refused() {
        assert!(Pattern::parse("{{ .Meta \"x\" }}").unwrap_err().contains(".Meta"));
        assert!(Pattern::parse("{{ .Name ").unwrap_err().contains("not closed"));
    }
}
