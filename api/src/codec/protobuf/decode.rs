//! Wire form to values.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::{
    ProtobufError,
    wire::{Content, Reader},
};
use crate::{
    codec::strict,
    limits::PROTOBUF_DEPTH_MAX,
    quantity::Quantity,
    schema::{Field, Kind, MessageId, Root, Scalar, Schema},
    timestamp,
};

/// Decodes the message of `root`, which is embedded `depth` levels deep.
pub(super) fn message(root: &Root, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let decoder = Decoder { schema: &root.schema };
    let mut fields = Map::new();
    decoder.fields(root.id, bytes, &mut fields, depth)?;
    Ok(Value::Object(fields))
}

struct Decoder<'a> {
    schema: &'a Schema,
}

impl Decoder<'_> {
    fn fields(
        &self,
        id: MessageId,
        bytes: &[u8],
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth >= PROTOBUF_DEPTH_MAX {
            return Err(ProtobufError::Malformed("exceeded max depth"));
        }
        let message = self.schema.get(id);
        let mut reader = Reader::new(bytes);
        while let Some((tag, content)) = reader.field()? {
            let Some(field) = message.field_by_tag(tag) else { continue };
            match (&field.kind, field.inline) {
                (Kind::Message(inner), true) => self.fields(*inner, content.bytes()?, into, depth + 1)?,
                _ => self.field(field, content, into, depth)?,
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        content: Content<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        let name = field.json.as_ref();
        match &field.kind {
            Kind::List { element, wrapped: false, .. } => {
                let items = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = items {
                    self.element(element, content, items, depth)?;
                }
            }
            Kind::Map { value, .. } => {
                let (key, value) = self.entry(value, content.bytes()?, depth)?;
                let entries = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
            kind => {
                let value = self.value(kind, content, depth)?;
                if field.pointer || !is_zero(kind, &value) {
                    into.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// One element, or several packed numbers.
    fn element(
        &self,
        kind: &Kind,
        content: Content<'_>,
        items: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if let (Kind::Scalar(scalar), Content::Bytes(packed)) = (kind, content) {
            let mut reader = Reader::new(packed);
            match scalar {
                Scalar::Bool | Scalar::Int32 | Scalar::Int64 => {
                    while !reader.is_empty() {
                        items.push(self.value(kind, Content::Varint(reader.varint()?), depth)?);
                    }
                    return Ok(());
                }
                Scalar::Double => {
                    while !reader.is_empty() {
                        items.push(self.value(kind, Content::Fixed64(reader.fixed64()?), depth)?);
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
        items.push(self.value(kind, content, depth)?);
        Ok(())
    }

    fn entry(&self, kind: &Kind, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((tag, content)) = reader.field()? {
            match tag {
                1 => key = content.text()?.to_owned(),
                2 => value = Some(self.value(kind, content, depth)?),
                _ => {}
            }
        }
        let value = match (value, kind) {
            (Some(value), _) => value,
            (None, Kind::Scalar(Scalar::Bool)) => Value::Bool(false),
            (None, Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double)) => Value::from(0),
            (None, Kind::Scalar(Scalar::Quantity)) => Value::from("0"),
            (None, Kind::Scalar(_)) => Value::from(""),
            (None, Kind::List { .. }) => Value::Array(Vec::new()),
            (None, _) => Value::Object(Map::new()),
        };
        Ok((key, value))
    }

    fn value(&self, kind: &Kind, content: Content<'_>, depth: usize) -> Result<Value, ProtobufError> {
        match kind {
            Kind::Message(id) => {
                let mut fields = Map::new();
                self.fields(*id, content.bytes()?, &mut fields, depth + 1)?;
                Ok(Value::Object(fields))
            }
            Kind::List { element, .. } => {
                let mut items = Vec::new();
                let mut reader = Reader::new(content.bytes()?);
                while let Some((tag, content)) = reader.field()? {
                    if tag == 1 {
                        self.element(element, content, &mut items, depth + 1)?;
                    }
                }
                Ok(Value::Array(items))
            }
            Kind::Map { .. } => Err(ProtobufError::NoWireForm("a map inside a map".to_owned())),
            Kind::Scalar(scalar) => self.scalar(*scalar, content, depth),
        }
    }

    fn scalar(&self, scalar: Scalar, content: Content<'_>, depth: usize) -> Result<Value, ProtobufError> {
        Ok(match scalar {
            Scalar::String => Value::from(content.text()?),
            Scalar::Bool => Value::from(content.varint()? != 0),
            Scalar::Int32 => Value::from(content.varint()? as i32),
            Scalar::Int64 => Value::from(content.varint()? as i64),
            Scalar::Double => strict::float(content.double()?),
            Scalar::Bytes => Value::from(STANDARD.encode(content.bytes()?)),
            Scalar::Quantity => quantity(content.bytes()?)?,
            Scalar::Time => time(content.bytes()?, timestamp::format_seconds)?,
            Scalar::MicroTime => time(content.bytes()?, timestamp::format_micros)?,
            Scalar::Duration => {
                let nanos = numbers(content.bytes()?)?.0;
                Value::from(timestamp::format_duration(SignedDuration::from_nanos(nanos)))
            }
            Scalar::IntOrString => int_or_string(content.bytes()?)?,
            Scalar::RawExtension | Scalar::Json | Scalar::FieldsV1 => raw(content.bytes()?, depth)?,
            Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStringArray => {
                self.schema_or(scalar, content.bytes()?, depth)?
            }
            Scalar::Any => return Err(ProtobufError::NoWireForm("a free-form value".to_owned())),
        })
    }

    fn schema_or(&self, scalar: Scalar, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
        let Some(id) = self.schema.json_schema() else {
            return Err(ProtobufError::NoWireForm("JSONSchemaProps".to_owned()));
        };
        let schema_tag = if scalar == Scalar::SchemaOrBool { 2 } else { 1 };
        let (mut schema, mut items, mut allows) = (None, Vec::new(), false);
        let mut reader = Reader::new(bytes);
        while let Some((tag, content)) = reader.field()? {
            if tag == schema_tag {
                schema = Some(self.value(&Kind::Message(id), content, depth + 1)?);
            } else if scalar == Scalar::SchemaOrBool {
                allows = content.varint()? != 0;
            } else if scalar == Scalar::SchemaOrArray {
                items.push(self.value(&Kind::Message(id), content, depth + 1)?);
            } else {
                items.push(Value::from(content.text()?));
            }
        }
        Ok(match (schema, scalar) {
            (Some(schema), _) => schema,
            (None, Scalar::SchemaOrBool) => Value::Bool(allows),
            (None, _) => Value::Array(items),
        })
    }
}

/// Whether a non-pointer field with this value is the same as an unset one.
fn is_zero(kind: &Kind, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => match kind {
            Kind::Scalar(Scalar::Quantity) => text == "0",
            Kind::Scalar(Scalar::Duration) => text == "0s",
            // Bytes and text that are there but empty are the same as absent.
            Kind::Scalar(Scalar::IntOrString) => false,
            _ => text.is_empty(),
        },
        Value::Object(fields) => fields.is_empty() && matches!(kind, Kind::Message(_)),
        _ => false,
    }
}

fn quantity(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut text = "";
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        if tag == 1 {
            text = content.text()?;
        }
    }
    if text.is_empty() {
        return Ok(Value::from("0"));
    }
    let quantity: Quantity = text.parse().map_err(|_| ProtobufError::Malformed("text is not a quantity"))?;
    Ok(Value::from(quantity.to_string()))
}

/// Fields 1 and 2 as signed numbers.
fn numbers(bytes: &[u8]) -> Result<(i64, i64), ProtobufError> {
    let (mut first, mut second) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        match tag {
            1 => first = content.varint()? as i64,
            2 => second = content.varint()? as i64,
            _ => {}
        }
    }
    Ok((first, second))
}

/// An empty message is the zero time, which is written as nothing.
fn time(bytes: &[u8], format: fn(Timestamp) -> String) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = numbers(bytes)?;
    let bad = ProtobufError::Malformed("time is out of range");
    let nanos = i32::try_from(nanos).map_err(|_| bad.clone())?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| bad)?;
    Ok(Value::from(format(time)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        match tag {
            1 => is_text = content.varint()? != 0,
            2 => number = content.varint()? as i32,
            3 => text = content.text()?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// Embedded JSON, or a whole enveloped object.
fn raw(bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        if tag == 1 {
            raw = content.bytes()?;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if super::is_enveloped(raw) {
        return super::decode_at(raw, depth + 1);
    }
    strict::parse_json(raw).map(|(value, _)| value).map_err(|error| ProtobufError::Json(error.to_string()))
}
