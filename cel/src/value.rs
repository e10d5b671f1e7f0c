//! Values while an expression runs. JSON is borrowed, not copied: a part of an
//! object becomes a value when it is looked at, in the type its schema gives it.

use std::{borrow::Cow, cmp::Ordering, ops::Deref, sync::Arc};

use base64::Engine as _;
use serde_json::{Map as JsonMap, Value as Json};

use crate::{
    fault::Fault,
    library::opaque::Opaque,
    limits::REQUEST_BYTES_MAX,
    time,
    types::{FieldType, ListKind, ListType, ObjectType, Type},
    work::Work,
};

static DYN: Type = Type::Dyn;
/// What a comparison counts as work beside its texts.
const COMPARED_BYTES: u64 = 128;

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    Json { items: &'a [Json], ty: Option<&'a ListType> },
    Owned(Arc<Vec<Value<'a>>>),
}

/// Entries of a map made by an expression, in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct Entries<'a> {
    pub list: Vec<(Value<'a>, Value<'a>)>,
    /// Set for objects made as `Object{...}`.
    pub type_name: Option<Arc<str>>,
}

/// A map or object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// All values of one type.
    Json {
        fields: &'a JsonMap<String, Json>,
        value: &'a Type,
    },
    /// Declared fields.
    Object {
        fields: &'a JsonMap<String, Json>,
        ty: &'a ObjectType,
    },
    Owned(Arc<Entries<'a>>),
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(jiff::Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    /// A type, by its name.
    Type(Arc<str>),
    Opaque(Arc<Opaque>),
}

impl<'a> Value<'a> {
    /// A JSON value without schema.
    pub fn of_json(json: &'a Json) -> Value<'a> {
        Value::typed(json, &DYN)
    }

    /// A JSON value as its declared type says. Data that does not fit its type
    /// (validation has already complained) is shown as what it is.
    pub fn typed(json: &'a Json, ty: &'a Type) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), ty) {
                (Some(number), Type::Double) => Value::Double(number as f64),
                (Some(number), _) => Value::Int(number),
                (None, _) => match (number.as_u64(), number.as_f64()) {
                    (_, Some(double)) if matches!(ty, Type::Int) && double.fract() == 0.0 && double.abs() < 9e15 => {
                        Value::Int(double as i64)
                    }
                    (_, double) => Value::Double(double.unwrap_or(f64::NAN)),
                },
            },
            Json::String(text) => Value::typed_text(text, ty),
            Json::Array(items) => {
                let ty = if let Type::List(list) = ty { Some(&**list) } else { None };
                Value::List(List::Json { items, ty })
            }
            Json::Object(fields) => Value::Map(match ty {
                Type::Object(object) => Map::Object { fields, ty: object },
                Type::Map(map) => Map::Json { fields, value: &map.1 },
                _ => Map::Json { fields, value: &DYN },
            }),
        }
    }

    fn typed_text(text: &'a str, ty: &Type) -> Value<'a> {
        let special = match ty {
            Type::Timestamp => time::timestamp(text).map(Value::Timestamp),
            Type::Duration => time::duration(text).map(Value::Duration),
            Type::Bytes => {
                base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into()))
            }
            _ => None,
        };
        special.unwrap_or(Value::String(Text::Borrowed(text)))
    }

    pub fn text(text: impl Into<Arc<str>>) -> Value<'static> {
        Value::String(Text::Shared(text.into()))
    }

    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(items)))
    }

    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub fn opaque(opaque: Opaque) -> Value<'static> {
        Value::Opaque(Arc::new(opaque))
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Object { ty, .. }) => &ty.name,
            Value::Map(Map::Owned(entries)) => entries.type_name.as_deref().unwrap_or("map"),
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// Characters, bytes, elements or entries; 1 for everything else.
    pub fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }

    /// Order of two values of the same kind; numbers compare across types.
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (a, b) => compare_numbers(a, b),
        }
    }

    /// `==`: values of different kinds are different.
    pub fn equals(&self, other: &Value<'_>, work: &Work) -> bool {
        // What comes of a comparison that was given up is never seen: the evaluation has failed.
        if !work.step(COMPARED_BYTES + self.as_str().map_or(0, |text| text.len() as u64)) {
            return false;
        }
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.equals(b, work),
            (Value::Map(a), Value::Map(b)) => a.equals(b, work),
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b, work),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Value::Opaque(a), Value::Opaque(b)) => a.equals(b),
            (a, b) => compare_numbers(a, b) == Some(Ordering::Equal),
        }
    }

    /// The value as JSON, when that fits into a request: what mutations need.
    pub fn to_json(&self) -> Result<Json, Fault> {
        self.json(&mut REQUEST_BYTES_MAX.clone())
    }

    fn json(&self, left: &mut u64) -> Result<Json, Fault> {
        let size = match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(List::Json { items, .. }) => items.iter().map(json_size).sum(),
            Value::Map(Map::Json { fields, .. } | Map::Object { fields, .. }) => fields_size(fields),
            _ => 0,
        };
        *left = left.checked_sub(size as u64 + 1).ok_or_else(|| Fault::new("value is too large"))?;
        Ok(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Uint(value) => Json::from(*value),
            Value::Double(value) => serde_json::Number::from_f64(*value)
                .map(Json::Number)
                .ok_or_else(|| Fault::new("number is not finite"))?,
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => Json::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Value::Timestamp(time) => Json::from(time.to_string()),
            Value::Duration(nanos) => Json::from(time::duration_text(*nanos)),
            Value::List(List::Json { items, .. }) => Json::from(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|item| item.json(left)).collect::<Result<_, _>>()?),
            Value::Map(Map::Json { fields, .. } | Map::Object { fields, .. }) => Json::Object((*fields).clone()),
            Value::Map(Map::Owned(entries)) => {
                let mut object = JsonMap::new();
                for (key, value) in &entries.list {
                    let key = key.as_str().ok_or_else(|| Fault::new("map keys must be strings"))?;
                    object.insert(key.to_owned(), value.json(left)?);
                }
                Json::Object(object)
            }
            Value::Optional(Some(inner)) => inner.json(left)?,
            Value::Type(name) => Json::from(&**name),
            Value::Opaque(opaque) => Json::from(opaque.text().unwrap_or_default()),
        })
    }
}

/// Bytes that JSON takes at least.
fn json_size(json: &Json) -> usize {
    1 + match json {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(json_size).sum(),
        Json::Object(fields) => fields_size(fields),
        _ => 0,
    }
}

fn fields_size(fields: &JsonMap<String, Json>) -> usize {
    fields.iter().map(|(name, value)| name.len() + json_size(value)).sum()
}

fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => whole_and_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => whole_and_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => whole_and_double(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => whole_and_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// Exact comparison; a whole number of 64 bits does not always fit a double.
fn whole_and_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    let floor = double.floor();
    match whole.cmp(&(floor as i128)) {
        Ordering::Equal if double > floor => Some(Ordering::Less),
        order => Some(order),
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json { items, .. } => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json { items, ty } => Some(Value::typed(items.get(index)?, ty.map_or(&DYN, |ty| &ty.element))),
            List::Owned(items) => items.get(index).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub fn contains(&self, wanted: &Value<'_>, work: &Work) -> bool {
        self.iter().any(|item| item.equals(wanted, work))
    }

    fn kind(&self) -> &ListKind {
        match self {
            List::Json { ty: Some(ty), .. } => &ty.kind,
            _ => &ListKind::Atomic,
        }
    }

    /// Sets and keyed lists are equal in any order.
    fn equals(&self, other: &List<'_>, work: &Work) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match self.kind() {
            ListKind::Atomic => self.iter().zip(other.iter()).all(|(a, b)| a.equals(&b, work)),
            ListKind::Set => self.iter().all(|item| other.contains(&item, work)),
            ListKind::Map(keys) => self.iter().all(|item| {
                let key = element_key(&item, keys);
                other.iter().any(|other| same_key(&key, &element_key(&other, keys), work) && item.equals(&other, work))
            }),
        }
    }

    /// `+`: sets unite, keyed lists replace elements with the same key.
    pub fn concat(&self, other: &List<'a>, work: &Work) -> List<'a> {
        let mut items: Vec<Value<'a>> = Vec::with_capacity(self.len() + other.len());
        items.extend(self.iter());
        match self.kind() {
            ListKind::Atomic => items.extend(other.iter()),
            ListKind::Set => {
                for item in other.iter() {
                    if !self.contains(&item, work) {
                        items.push(item);
                    }
                }
            }
            ListKind::Map(keys) => {
                for item in other.iter() {
                    let key = element_key(&item, keys);
                    match items.iter().position(|have| same_key(&key, &element_key(have, keys), work)) {
                        Some(at) => items[at] = item,
                        None => items.push(item),
                    }
                }
            }
        }
        List::Owned(Arc::new(items))
    }
}

fn element_key<'a>(element: &Value<'a>, keys: &[String]) -> Vec<Option<Value<'a>>> {
    let Value::Map(map) = element else { return Vec::new() };
    keys.iter().map(|key| map.field(&crate::types::escape(key).unwrap_or_else(|| key.clone()))).collect()
}

fn same_key(a: &[Option<Value<'_>>], b: &[Option<Value<'_>>], work: &Work) -> bool {
    let same = |(a, b): (&Option<Value<'_>>, &Option<Value<'_>>)| match (a, b) {
        (Some(a), Some(b)) => a.equals(b, work),
        (a, b) => a.is_none() && b.is_none(),
    };
    !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(same)
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json { fields, .. } => fields.len(),
            Map::Object { fields, ty } => ty.fields.values().filter(|field| fields.contains_key(&field.json)).count(),
            Map::Owned(entries) => entries.list.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A field by its name in the expression.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json { fields, value } => Some(Value::typed(fields.get(name)?, value)),
            Map::Object { fields, ty } => {
                let FieldType { json, ty } = ty.fields.get(name)?;
                Some(Value::typed(fields.get(json)?, ty))
            }
            Map::Owned(entries) => {
                let found = entries.list.iter().find(|(key, _)| key.as_str() == Some(name));
                found.map(|(_, value)| value.clone())
            }
        }
    }

    /// The value of any key.
    pub fn get(&self, key: &Value<'_>, work: &Work) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Owned(entries), key) => {
                entries.list.iter().find(|(have, _)| have.equals(key, work)).map(|(_, value)| value.clone())
            }
            (map, Value::String(name)) => map.field(name),
            _ => None,
        }
    }

    pub fn iter(&self) -> Box<dyn Iterator<Item = (Value<'a>, Value<'a>)> + '_> {
        match self {
            Map::Json { fields, value } => {
                let value: &'a Type = value;
                let fields: &'a JsonMap<String, Json> = fields;
                Box::new(
                    fields
                        .iter()
                        .map(move |(name, json)| (Value::String(Text::Borrowed(name)), Value::typed(json, value))),
                )
            }
            Map::Object { fields, ty } => {
                let ty: &'a ObjectType = ty;
                let fields: &'a JsonMap<String, Json> = fields;
                Box::new(ty.fields.iter().filter_map(move |(name, field)| {
                    let json = fields.get(&field.json)?;
                    Some((Value::String(Text::Borrowed(name)), Value::typed(json, &field.ty)))
                }))
            }
            Map::Owned(entries) => Box::new(entries.list.iter().cloned()),
        }
    }

    fn equals(&self, other: &Map<'_>, work: &Work) -> bool {
        if self.len() != other.len() {
            return false;
        }
        self.iter().all(|(key, value)| other.get(&key, work).is_some_and(|other| value.equals(&other, work)))
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(text: Cow<'a, str>) -> Value<'a> {
        match text {
            Cow::Borrowed(text) => Value::String(Text::Borrowed(text)),
            Cow::Owned(text) => Value::text(text),
        }
    }
}
