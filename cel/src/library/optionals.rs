//! Optional values. `or` and `orValue` are part of the interpreter: they must
//! not evaluate what is not needed.

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "optional.of" => |args| Ok(Value::some(args.get(0)?.clone())),
        "optional.none" => |_| Ok(Value::Optional(None)),
        "optional.ofNonZeroValue" => |args| {
            let value = args.get(0)?;
            Ok(if is_zero(value) { Value::Optional(None) } else { Value::some(value.clone()) })
        },
        "value" => |args| match args.get(0)? {
            Value::Optional(Some(inner)) => Ok((**inner).clone()),
            Value::Optional(None) => Err(Fault::new("optional.none() dereference")),
            _ => Err(Fault::no_such_overload()),
        },
        "hasValue" => |args| match args.get(0)? {
            Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
            _ => Err(Fault::no_such_overload()),
        },
        "or" | "orValue" => |_| Err(Fault::no_such_overload()),
        "optional.unwrap" | "unwrapOpt" => unwrap,
        "first" => |args| {
            let list = args.list(0)?;
            Ok(Value::Optional(list.get(0).map(std::sync::Arc::new)))
        },
        "last" => |args| {
            let list = args.list(0)?;
            let last = list.len().checked_sub(1).and_then(|at| list.get(at));
            Ok(Value::Optional(last.map(std::sync::Arc::new)))
        },
        _ => return None,
    })
}

fn unwrap<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let mut items = Vec::new();
    for item in args.list(0)?.iter() {
        match item {
            Value::Optional(Some(inner)) => items.push((*inner).clone()),
            Value::Optional(None) => {}
            _ => return Err(Fault::no_such_overload()),
        }
    }
    Ok(Value::list(items))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Double(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}
