//! `rewrite` and `template`: rules that change questions, and answers made from them.

use regex::Regex;

use super::{
    Result,
    words::{one, regex, zone_name, zones_or},
};
use crate::dns::{
    corefile::{Directive, Token},
    message::{CLASS_ANY, CLASS_CHAOS, CLASS_IN, Rcode},
    name::Name,
    presentation::type_number,
    rewrite::{AnswerRule, Matcher, Rule},
    template::{Pattern, Template},
};

pub(super) fn rewrite(directive: &Directive) -> Result<Rule> {
    // Options may stand on the line or in the block.
    let mut words: Vec<Token> = directive.arguments.clone();
    words.extend(directive.block.iter().flatten().cloned());
    let goes_on = words.first().is_some_and(|word| word.text == "continue");
    if words.first().is_some_and(|word| ["continue", "stop"].contains(&word.text.as_str())) {
        words.remove(0);
    }
    let missing = || directive.name.error("rewrite needs a field and what to change");
    let (field, rest) = words.split_first().ok_or_else(missing)?;
    match (field.text.as_str(), rest) {
        ("name", _) => rewrite_name(directive, rest, goes_on),
        ("type", [from, to]) => {
            let kind = |token: &Token| {
                type_number(&token.text).ok_or_else(|| token.error(format!("{:?} is no record type", token.text)))
            };
            Ok(Rule::Type { from: kind(from)?, to: kind(to)?, goes_on })
        }
        ("ttl", [.., bounds]) => {
            let (matcher, _) = matcher(&directive.name, &rest[..rest.len() - 1], false)?;
            let (min, max) = bounds.text.split_once('-').unwrap_or((&bounds.text, &bounds.text));
            let bound = |text: &str, open: u32| {
                if text.is_empty() { Ok(open) } else { text.parse().map_err(|_| bounds.error("ttl is not a number")) }
            };
            let (min, max) = (bound(min, 0)?, bound(max, u32::MAX)?);
            if min > max { Err(bounds.error("ttl bounds are reversed")) } else { Ok(Rule::Ttl { matcher, min, max }) }
        }
        (other, _) => Err(field.error(format!("rewrite of {other:?} is not supported or not complete"))),
    }
}

fn rewrite_name(directive: &Directive, words: &[Token], goes_on: bool) -> Result<Rule> {
    let split = words.iter().position(|word| word.text == "answer").unwrap_or(words.len());
    let (own, options) = words.split_at(split);
    let (matcher, replacement) = matcher(&directive.name, own, true)?;
    let mut answers = Vec::new();
    let mut rest = options;
    while let Some((_, after)) = rest.split_first() {
        rest = match after {
            // Names asked instead are always changed back.
            [auto, after @ ..] if auto.text == "auto" => after,
            [kind, from, to, after @ ..] if ["name", "value"].contains(&kind.text.as_str()) => {
                answers.push(AnswerRule {
                    pattern: regex(from)?,
                    replacement: to.text.clone(),
                    is_value: kind.text == "value",
                });
                after
            }
            [from, to, after @ ..] => {
                answers.push(AnswerRule { pattern: regex(from)?, replacement: to.text.clone(), is_value: false });
                after
            }
            _ => return Err(directive.name.error("answer needs a pattern and a replacement")),
        };
    }
    Ok(Rule::Name { matcher, replacement, answers, goes_on })
}

/// `[exact|prefix|suffix|substring|regex] PATTERN [REPLACEMENT]`.
fn matcher(at: &Token, words: &[Token], has_replacement: bool) -> Result<(Matcher, String)> {
    const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];
    let expected = if has_replacement { 2 } else { 1 };
    let (kind, words) = match words.split_first() {
        Some((kind, rest)) if KINDS.contains(&kind.text.as_str()) && words.len() > expected => {
            (kind.text.as_str(), rest)
        }
        _ => ("exact", words),
    };
    if words.len() != expected {
        return Err(at.error("rewrite needs a pattern and a replacement"));
    }
    let pattern = &words[0];
    let lower = pattern.text.to_ascii_lowercase();
    let matcher = match kind {
        "prefix" => Matcher::Prefix(lower),
        "suffix" => Matcher::Suffix(lower),
        "substring" => Matcher::Substring(lower),
        "regex" => Matcher::Regex(regex(pattern)?),
        _ => Matcher::Exact(zone_name(pattern, &pattern.text)?),
    };
    Ok((matcher, words.get(1).map(|token| token.text.clone()).unwrap_or_default()))
}

pub(super) fn template(directive: &Directive, own: &[Name]) -> Result<Template> {
    let [class, kind, rest @ ..] = directive.arguments.as_slice() else {
        return Err(directive.name.error("template needs a class and a type"));
    };
    let mut template = Template {
        class: match class.text.to_ascii_uppercase().as_str() {
            "IN" => CLASS_IN,
            "ANY" => CLASS_ANY,
            "CH" | "CHAOS" => CLASS_CHAOS,
            other => return Err(class.error(format!("{other:?} is no class"))),
        },
        record_type: type_number(&kind.text).ok_or_else(|| kind.error(format!("{:?} is no record type", kind.text)))?,
        zones: zones_or(rest, own)?,
        matches: Vec::new(),
        answers: Vec::new(),
        additional: Vec::new(),
        authority: Vec::new(),
        rcode: Rcode::NO_ERROR,
        fallthrough: Vec::new(),
    };
    for line in &directive.block {
        let patterns = || -> Result<Vec<Pattern>> {
            line[1..].iter().map(|token| Pattern::parse(&token.text).map_err(|error| token.error(error))).collect()
        };
        match line[0].text.as_str() {
            "match" => template.matches.extend(line[1..].iter().map(regex).collect::<Result<Vec<_>>>()?),
            "answer" => template.answers.extend(patterns()?),
            "additional" => template.additional.extend(patterns()?),
            "authority" => template.authority.extend(patterns()?),
            "rcode" => {
                let code = one(line, "a response code")?;
                let known = Rcode::NAMES.iter().find(|(_, name)| code.text.eq_ignore_ascii_case(name));
                template.rcode = known.ok_or_else(|| code.error(format!("{:?} is no response code", code.text)))?.0;
            }
            "fallthrough" => template.fallthrough = zones_or(&line[1..], &[Name::root()])?,
            "upstream" | "ederror" => {}
            other => return Err(line[0].error(format!("unknown property {other:?} of template"))),
        }
    }
    if template.matches.is_empty() {
        template.matches.push(Regex::new(".*").map_err(|error| directive.name.error(error.to_string()))?);
    }
    Ok(template)
}
