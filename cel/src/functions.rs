//! The table of functions: names, overloads, types. `functions.txt` states one
//! overload a line; what is the same for many types is filled in here.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use regex::Regex;

use crate::{
    fault::Fault,
    library,
    types::{ListType, Type},
    value::Value,
    work::Work,
};

/// Arguments of a call; the target of a member call is the first.
pub struct Args<'c, 'a> {
    pub values: &'c [Value<'a>],
    /// The compiled pattern, where it is a constant.
    pub pattern: Option<&'c Regex>,
    /// Counts comparisons.
    pub work: &'c Work,
}

/// What a function does.
pub type Implementation = for<'c, 'a> fn(&Args<'c, 'a>) -> Result<Value<'a>, Fault>;

/// One way to call a function.
#[derive(Debug)]
pub struct Overload {
    pub id: String,
    pub member: bool,
    /// With the target first for a member.
    pub params: Vec<Type>,
    pub result: Type,
}

/// A function.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub overloads: Vec<Overload>,
    /// Absent for operators that decide themselves what to evaluate.
    pub run: Option<Implementation>,
}

static TABLE: LazyLock<HashMap<String, Function>> = LazyLock::new(build);

/// A function by name.
pub fn find(name: &str) -> Option<&'static Function> {
    TABLE.get(name)
}

const COMPARABLE: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
const SUMMABLE: [&str; 4] = ["int", "uint", "double", "duration"];

fn build() -> HashMap<String, Function> {
    let mut lines: Vec<String> = include_str!("functions.txt").lines().map(str::to_owned).collect();
    for (function, word) in [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")] {
        for name in COMPARABLE {
            let id = match name {
                "int" => format!("{word}_int64"),
                "uint" => format!("{word}_uint64"),
                name => format!("{word}_{name}"),
            };
            lines.push(format!("{function} {id} ({name},{name})->bool"));
        }
        let numbers = [("int", "int64"), ("uint", "uint64"), ("double", "double")];
        for (a, long_a) in numbers {
            for (b, long_b) in numbers.iter().filter(|(b, _)| *b != a) {
                lines.push(format!("{function} {word}_{long_a}_{long_b} ({a},{b})->bool"));
            }
        }
    }
    for name in COMPARABLE {
        lines.push(format!("isSorted list_{name}_is_sorted_bool list({name}).()->bool"));
        lines.push(format!("max list_{name}_max_{name} list({name}).()->{name}"));
        lines.push(format!("min list_{name}_min_{name} list({name}).()->{name}"));
        lines.push(format!("sort list_{name}_sort list({name}).()->list({name})"));
        lines.push(format!("@sortByAssociatedKeys list_{name}_sortByAssociatedKeys list(A).(list({name}))->list(A)"));
    }
    for name in SUMMABLE {
        lines.push(format!("sum list_{name}_sum_{name} list({name}).()->{name}"));
    }
    let mut table: HashMap<String, Function> = HashMap::new();
    for line in &lines {
        let mut words = line.split(' ');
        let (Some(name), Some(id), Some(signature)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(overload) = overload(id, signature) else { continue };
        let function = table.entry(name.to_owned()).or_insert_with(|| Function {
            name: name.to_owned(),
            overloads: Vec::new(),
            run: library::implementation(name),
        });
        function.overloads.push(overload);
    }
    table
}

fn overload(id: &str, signature: &str) -> Option<Overload> {
    let (call, result) = signature.rsplit_once("->")?;
    let (target, args) = match call.strip_prefix('(') {
        Some(args) => ("", args),
        None => call.split_once(".(")?,
    };
    let args = args.strip_suffix(')')?;
    let mut params = Vec::new();
    if !target.is_empty() {
        params.push(parse(target)?);
    }
    for part in split(args) {
        params.push(parse(part)?);
    }
    Some(Overload { id: id.to_owned(), member: !target.is_empty(), params, result: parse(result)? })
}

/// Parts between commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

fn parse(text: &str) -> Option<Type> {
    if let Some((name, inner)) = text.split_once('(') {
        let inner: Vec<Type> = split(inner.strip_suffix(')')?).into_iter().map(parse).collect::<Option<_>>()?;
        let first = inner.first()?.clone();
        return Some(match name {
            "list" => Type::List(Arc::new(ListType { element: first, ..ListType::default() })),
            "map" => Type::map(first, inner.get(1)?.clone()),
            "optional" => Type::optional(first),
            "type" => Type::Type(Arc::new(first)),
            _ => return None,
        });
    }
    Some(match text {
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        name => Type::Opaque(opaque(name)?),
    })
}

const QUANTITY: &str = "kubernetes.Quantity";

fn opaque(name: &str) -> Option<&'static str> {
    Some(match name {
        "quantity" => QUANTITY,
        "ip" => "net.IP",
        "cidr" => "net.CIDR",
        "url" => "kubernetes.URL",
        "semver" => "kubernetes.Semver",
        "format" => "kubernetes.NamedFormat",
        "authorizer" => "kubernetes.authorization.Authorizer",
        "pathcheck" => "kubernetes.authorization.PathCheck",
        "groupcheck" => "kubernetes.authorization.GroupCheck",
        "resourcecheck" => "kubernetes.authorization.ResourceCheck",
        "decision" => "kubernetes.authorization.Decision",
        _ => return None,
    })
}

/// The type of a quantity, such as `quantity("1Gi")` gives.
pub fn quantity_type() -> Type {
    Type::Opaque(QUANTITY)
}

/// The type of the `authorizer` variable.
pub fn authorizer_type() -> Type {
    Type::Opaque("kubernetes.authorization.Authorizer")
}

/// The type of `authorizer.requestResource`.
pub fn resource_check_type() -> Type {
    Type::Opaque("kubernetes.authorization.ResourceCheck")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_every_function_does_something() {
        let lines = include_str!("functions.txt").lines().count();
        assert!(TABLE.values().map(|function| function.overloads.len()).sum::<usize>() > lines + 60);
        const OWN: [&str; 4] = ["_?_:_", "_&&_", "_||_", "dyn"];
        for function in TABLE.values() {
            assert!(function.run.is_some() || OWN.contains(&function.name.as_str()), "{}", function.name);
        }
        for line in include_str!("functions.txt").lines() {
            let mut words = line.split(' ').skip(1);
            assert!(overload(words.next().unwrap(), words.next().unwrap()).is_some(), "{line}");
        }
    }
}
