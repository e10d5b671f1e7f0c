//! Lists and sets.

use std::cmp::Ordering;

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    limits::RANGE_MAX,
    value::{List, Value},
    work::Work,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" => sum,
        "max" => |args| extreme(args, Ordering::Greater, "max"),
        "min" => |args| extreme(args, Ordering::Less, "min"),
        "indexOf" => |args| match args.get(0)? {
            Value::String(_) => super::strings::index_of(args),
            _ => position(args, false),
        },
        "lastIndexOf" => |args| match args.get(0)? {
            Value::String(_) => super::strings::last_index_of(args),
            _ => position(args, true),
        },
        "includes" => |args| match args.get(0)? {
            Value::List(list) => Ok(Value::Bool(list.contains(args.get(1)?, args.work))),
            _ => Err(Fault::no_such_overload()),
        },
        "slice" => slice,
        "flatten" => flatten,
        "reverse" => |args| {
            let mut items: Vec<Value<'_>> = args.list(0)?.iter().collect();
            items.reverse();
            Ok(Value::list(items))
        },
        "distinct" => |args| {
            let mut items: Vec<Value<'_>> = Vec::new();
            for item in args.list(0)?.iter() {
                if !items.iter().any(|have| have.equals(&item, args.work)) {
                    items.push(item);
                }
            }
            Ok(Value::list(items))
        },
        "sort" => |args| sort(args.list(0)?, args.list(0)?),
        "@sortByAssociatedKeys" => |args| sort(args.list(0)?, args.list(1)?),
        "lists.range" => |args| {
            let count = args.int(0)?;
            if count > RANGE_MAX {
                return Err(Fault::new(format!("lists.range() is limited to {RANGE_MAX} elements")));
            }
            Ok(Value::list((0..count.max(0)).map(Value::Int).collect()))
        },
        "sets.contains" => |args| Ok(Value::Bool(contains(args.list(0)?, args.list(1)?, args.work))),
        "sets.equivalent" => |args| {
            let (a, b) = (args.list(0)?, args.list(1)?);
            Ok(Value::Bool(contains(a, b, args.work) && contains(b, a, args.work)))
        },
        "sets.intersects" => |args| {
            let (a, b) = (args.list(0)?, args.list(1)?);
            Ok(Value::Bool(a.iter().any(|item| b.contains(&item, args.work))))
        },
        _ => return None,
    })
}

fn contains(list: &List<'_>, part: &List<'_>, work: &Work) -> bool {
    part.iter().all(|item| list.contains(&item, work))
}

fn is_sorted<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let list = args.list(0)?;
    let mut before: Option<Value<'_>> = None;
    for item in list.iter() {
        if let Some(before) = &before {
            match before.compare(&item) {
                Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                Some(_) => {}
                None => return Err(Fault::no_such_overload()),
            }
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let add = super::operators::find("_+_").ok_or_else(Fault::no_such_overload)?;
    let mut total: Option<Value<'a>> = None;
    for item in args.list(0)?.iter() {
        total = Some(match total {
            None => item,
            Some(total) => add(&Args { values: &[total, item], pattern: None, work: args.work })?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(args: &Args<'_, 'a>, wanted: Ordering, name: &str) -> Result<Value<'a>, Fault> {
    let mut best: Option<Value<'a>> = None;
    for item in args.list(0)?.iter() {
        best = Some(match best {
            None => item,
            Some(best) => match item.compare(&best) {
                Some(order) if order == wanted => item,
                Some(_) => best,
                None => return Err(Fault::no_such_overload()),
            },
        });
    }
    best.ok_or_else(|| Fault::new(format!("{name} called on empty list")))
}

fn position<'a>(args: &Args<'_, 'a>, last: bool) -> Result<Value<'a>, Fault> {
    let (list, wanted) = (args.list(0)?, args.get(1)?);
    let mut found = -1;
    for (at, item) in list.iter().enumerate() {
        if item.equals(wanted, args.work) {
            found = at as i64;
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn slice<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let (list, start, end) = (args.list(0)?, args.int(1)?, args.int(2)?);
    if start < 0 || end < 0 {
        return Err(Fault::new(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(Fault::new(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    if end as u64 > list.len() as u64 {
        return Err(Fault::new(format!("cannot slice({start}, {end}), list is length {}", list.len())));
    }
    Ok(Value::list((start as usize..end as usize).filter_map(|at| list.get(at)).collect()))
}

fn flatten<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let levels = if args.values.len() > 1 { args.int(1)? } else { 1 };
    if levels < 0 {
        return Err(Fault::new("level must be non-negative"));
    }
    let mut items: Vec<Value<'a>> = args.list(0)?.iter().collect();
    for _ in 0..levels {
        if !items.iter().any(|item| matches!(item, Value::List(_))) {
            break;
        }
        let mut flat = Vec::new();
        for item in items {
            match item {
                Value::List(list) => flat.extend(list.iter()),
                other => flat.push(other),
            }
            if flat.len() > RANGE_MAX as usize {
                return Err(Fault::new("list is too long"));
            }
        }
        items = flat;
    }
    Ok(Value::list(items))
}

fn sort<'a>(list: &List<'a>, keys: &List<'a>) -> Result<Value<'a>, Fault> {
    if list.len() != keys.len() {
        return Err(Fault::no_such_overload());
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.iter().zip(list.iter()).collect();
    if let Some((first, _)) = pairs.first() {
        if first.compare(first).is_none() && !matches!(first, Value::Double(_)) {
            return Err(Fault::new("list elements must be comparable"));
        }
        let same = pairs.iter().all(|(key, _)| key.type_name() == first.type_name());
        if !same {
            return Err(Fault::new("list elements must have the same type"));
        }
    }
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}
