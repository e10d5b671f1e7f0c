//! Types of expressions and of data.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// How elements of a list relate; it changes `==` and `+`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Elements are identified by these fields.
    Map(Vec<String>),
}

/// A list and its elements.
#[derive(Debug, Default)]
pub struct ListType {
    pub element: Type,
    pub kind: ListKind,
}

/// An object with declared fields.
#[derive(Debug, Default)]
pub struct ObjectType {
    pub name: String,
    /// By the name used in expressions (escaped).
    pub fields: BTreeMap<String, FieldType>,
}

/// One declared field.
#[derive(Clone, Debug)]
pub struct FieldType {
    /// The name in JSON.
    pub json: String,
    pub ty: Type,
}

/// A type.
#[derive(Clone, Debug, Default)]
pub enum Type {
    #[default]
    Dyn,
    /// The type of an expression with an error; fits everywhere.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<ListType>),
    Map(Arc<(Type, Type)>),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// Something only its own functions can look into: `net.IP`.
    Opaque(&'static str),
    /// A type parameter of an overload (checker only).
    Param(u32),
}

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(ListType { element, kind: ListKind::Atomic }))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// An object type with JSON names that need no escaping.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let field = |(name, ty): (&str, Type)| (name.to_owned(), FieldType { json: name.to_owned(), ty });
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: fields.into_iter().map(field).collect() }))
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Values of the type have a constant size.
    pub fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The name that `type()` gives and messages show.
    pub fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Object(object) => &object.name,
            Type::Optional(_) => "optional_type",
            Type::Type(_) => "type",
            Type::Opaque(name) => name,
            Type::Param(_) => "param",
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) => a.element == b.element,
            (Type::Map(a), Type::Map(b)) => a == b,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Optional(a), Type::Optional(b)) | (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(list) => write!(f, "list({})", list.element),
            Type::Map(map) => write!(f, "map({}, {})", map.0, map.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type(inner) => write!(f, "type({inner})"),
            Type::Param(number) => write!(f, "{}", char::from(b'A' + (number % 26) as u8)),
            other => f.write_str(other.name()),
        }
    }
}

/// Words that may not name a variable.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a JSON field in expressions; none when it cannot be named.
///
/// ```
/// assert_eq!(skiff_cel::escape("x-a.b").as_deref(), Some("x__dash__a__dot__b"));
/// assert_eq!(skiff_cel::escape("namespace").as_deref(), Some("__namespace__"));
/// ```
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) || matches!(name, "true" | "false" | "null" | "in") {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let (text, length) = match first {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            first if first.is_ascii_alphanumeric() || first == '_' => (&rest[..1], 1),
            _ => return None,
        };
        escaped.push_str(text);
        rest = &rest[length..];
    }
    Some(escaped)
}
