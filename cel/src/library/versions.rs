//! Semantic versions.

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

use super::opaque::Opaque;

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "semver" => |args| {
            let version = parse(args)?.map_err(Fault::new)?;
            Ok(Value::opaque(Opaque::Semver(version)))
        },
        "isSemver" => |args| Ok(Value::Bool(parse(args)?.is_ok())),
        "major" => |args| Ok(Value::Int(of(args, 0)?.major as i64)),
        "minor" => |args| Ok(Value::Int(of(args, 0)?.minor as i64)),
        "patch" => |args| Ok(Value::Int(of(args, 0)?.patch as i64)),
        _ => return None,
    })
}

fn parse(args: &Args<'_, '_>) -> Result<Result<semver::Version, String>, Fault> {
    let text = args.text(0)?;
    let normalize = match args.values.get(1) {
        Some(Value::Bool(value)) => *value,
        Some(_) => return Err(Fault::no_such_overload()),
        None => false,
    };
    let text = if normalize { normalized(text) } else { text.to_owned() };
    Ok(semver::Version::parse(&text).map_err(|error| format!("{error}")))
}

/// Without a leading `v` and leading zeros, with the missing parts.
fn normalized(text: &str) -> String {
    let text = text.trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers.split('.').collect();
    for part in &mut parts {
        let stripped = part.trim_start_matches('0');
        *part = if stripped.is_empty() && !part.is_empty() { "0" } else { stripped };
    }
    while parts.len() < 3 && rest.is_empty() {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

/// A version argument.
pub(super) fn of<'c>(args: &'c Args<'_, '_>, index: usize) -> Result<&'c semver::Version, Fault> {
    match args.get(index)? {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Semver(version) => Ok(version),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}
