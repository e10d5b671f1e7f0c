//! Regular expressions: linear time, bounded size.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    limits::REGEX_BYTES_MAX,
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "matches" => |args| Ok(Value::Bool(pattern(args)?.is_match(args.text(0)?))),
        "find" => |args| {
            let found = pattern(args)?.find(args.text(0)?).map_or("", |found| found.as_str()).to_owned();
            Ok(Value::text(found))
        },
        "findAll" => find_all,
        _ => return None,
    })
}

/// Compiles a pattern within bounds.
pub fn compile(pattern: &str) -> Result<Regex, Fault> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| Fault::new(format!("error parsing regexp: `{pattern}`")))
}

fn pattern<'c>(args: &Args<'c, '_>) -> Result<Cow<'c, Regex>, Fault> {
    match args.pattern {
        Some(regex) => Ok(Cow::Borrowed(regex)),
        None => compile(args.text(1)?).map(Cow::Owned),
    }
}

fn find_all<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let regex = pattern(args)?;
    let limit = if args.values.len() > 2 { args.int(2)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let text = args.text(0)?;
    Ok(Value::list(regex.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect()))
}
