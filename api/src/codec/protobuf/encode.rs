//! Values to wire form.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{ProtobufError, wire::Writer};
use crate::{
    limits::PROTOBUF_DEPTH_MAX,
    schema::{Field, Kind, MessageId, Root, Scalar, Schema},
    timestamp,
};

/// Encodes the message of `root`.
pub(super) fn message(root: &Root, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let fields = value.as_object().ok_or_else(|| ProtobufError::Value { path: root.message().name.to_string() })?;
    let mut encoder = Encoder { schema: &root.schema, writer: Writer::with_capacity(512), depth: 0 };
    encoder.fields(root.id, fields)?;
    Ok(encoder.writer.finish())
}

struct Encoder<'a> {
    schema: &'a Schema,
    writer: Writer,
    depth: usize,
}

impl Encoder<'_> {
    /// Writes the fields of a message by descending tag.
    fn fields(&mut self, id: MessageId, values: &Map<String, Value>) -> Result<(), ProtobufError> {
        if self.depth >= PROTOBUF_DEPTH_MAX {
            return Err(ProtobufError::Malformed("exceeded max depth"));
        }
        self.depth += 1;
        let message = self.schema.get(id);
        if message.fields.iter().any(|field| field.tag == 0 && !field.inline) {
            return Err(ProtobufError::NoWireForm(message.name.to_string()));
        }
        for field in message.by_tag().rev() {
            if field.inline {
                let Kind::Message(inner) = field.kind else { continue };
                self.nested(field.tag, |encoder| encoder.fields(inner, values))?;
                continue;
            }
            let value = values.get(field.json.as_ref()).filter(|value| !value.is_null());
            self.field(field, value).map_err(|error| within(error, &field.json))?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(&mut self, field: &Field, value: Option<&Value>) -> Result<(), ProtobufError> {
        match (value, &field.kind) {
            (Some(value), kind) => self.value(field.tag, kind, value),
            (None, _) if field.pointer => Ok(()),
            (None, Kind::List { wrapped: false, .. } | Kind::Map { .. }) => Ok(()),
            (None, Kind::List { wrapped: true, .. }) => Ok(()),
            (None, Kind::Message(id)) => self.nested(field.tag, |encoder| encoder.fields(*id, &Map::new())),
            (None, Kind::Scalar(scalar)) => self.unset(field.tag, *scalar),
        }
    }

    /// What generated code writes for a zero value of a type that is not a pointer.
    fn unset(&mut self, tag: u32, scalar: Scalar) -> Result<(), ProtobufError> {
        match scalar {
            Scalar::String => self.writer.text(tag, ""),
            Scalar::Bool | Scalar::Int32 | Scalar::Int64 => self.writer.varint(tag, 0),
            Scalar::Double => self.writer.double(tag, 0.0),
            Scalar::Bytes => {}
            Scalar::Quantity => return self.scalar(tag, scalar, &Value::from("0")),
            Scalar::IntOrString => return self.scalar(tag, scalar, &Value::from(0)),
            Scalar::Duration => return self.scalar(tag, scalar, &Value::from("0s")),
            Scalar::SchemaOrBool => return self.scalar(tag, scalar, &Value::from(false)),
            _ => self.writer.bytes(tag, &[]),
        }
        Ok(())
    }

    fn value(&mut self, tag: u32, kind: &Kind, value: &Value) -> Result<(), ProtobufError> {
        match kind {
            Kind::Scalar(scalar) => self.scalar(tag, *scalar, value),
            Kind::Message(id) => {
                let fields = value.as_object().ok_or_else(unfit)?;
                self.nested(tag, |encoder| encoder.fields(*id, fields))
            }
            Kind::List { element, wrapped: true, .. } => self.nested(tag, |encoder| encoder.list(1, element, value)),
            Kind::List { element, .. } => self.list(tag, element, value),
            Kind::Map { value: element, .. } => {
                // Entries go out in key order, which is the order of the JSON map.
                let entries = value.as_object().ok_or_else(unfit)?;
                for (key, value) in entries.iter().rev() {
                    self.nested(tag, |encoder| {
                        match (&**element, value) {
                            (Kind::Scalar(scalar), Value::Null) => encoder.unset(2, *scalar)?,
                            (_, Value::Null) => {}
                            (kind, value) => encoder.value(2, kind, value)?,
                        }
                        encoder.writer.text(1, key);
                        Ok(())
                    })
                    .map_err(|error| within(error, key))?;
                }
                Ok(())
            }
        }
    }

    fn list(&mut self, tag: u32, element: &Kind, value: &Value) -> Result<(), ProtobufError> {
        for item in value.as_array().ok_or_else(unfit)?.iter().rev() {
            match (element, item) {
                (Kind::Scalar(scalar), Value::Null) => self.unset(tag, *scalar)?,
                (element, item) => self.value(tag, element, item)?,
            }
        }
        Ok(())
    }

    fn nested(
        &mut self,
        tag: u32,
        fill: impl FnOnce(&mut Self) -> Result<(), ProtobufError>,
    ) -> Result<(), ProtobufError> {
        // The writer cannot be lent to a closure that also needs `self`, so it is moved through.
        let mut writer = std::mem::replace(&mut self.writer, Writer::with_capacity(0));
        let done = writer.message(tag, |writer| {
            std::mem::swap(&mut self.writer, writer);
            let filled = fill(self);
            std::mem::swap(&mut self.writer, writer);
            filled
        });
        self.writer = writer;
        done
    }

    fn scalar(&mut self, tag: u32, scalar: Scalar, value: &Value) -> Result<(), ProtobufError> {
        let text = || value.as_str().ok_or_else(unfit);
        match scalar {
            Scalar::String => self.writer.text(tag, text()?),
            Scalar::Bool => self.writer.varint(tag, u64::from(value.as_bool().ok_or_else(unfit)?)),
            // Negative numbers are sign-extended to 64 bits on the wire.
            Scalar::Int32 | Scalar::Int64 => self.writer.varint(tag, value.as_i64().ok_or_else(unfit)? as u64),
            Scalar::Double => self.writer.double(tag, value.as_f64().ok_or_else(unfit)?),
            Scalar::Bytes => self.writer.bytes(tag, &STANDARD.decode(text()?).map_err(|_| unfit())?),
            Scalar::Quantity => {
                let text = text()?;
                self.writer.message(tag, |writer| {
                    writer.text(1, text);
                    Ok(())
                })?;
            }
            Scalar::Time | Scalar::MicroTime => {
                let time = timestamp::parse(text()?).map_err(|_| unfit())?;
                let nanos = if scalar == Scalar::Time { 0 } else { time.subsec_nanosecond() / 1000 * 1000 };
                // Before 1970 the parts of jiff are both negative; the wire wants nanos positive.
                let nanos_of_day = time.as_nanosecond().div_euclid(1_000_000_000);
                let nanos = if nanos < 0 { nanos + 1_000_000_000 } else { nanos };
                self.pair(tag, nanos_of_day as i64 as u64, nanos as u64)?;
            }
            Scalar::Duration => {
                let duration = timestamp::parse_duration(text()?).map_err(|_| unfit())?;
                self.writer.message(tag, |writer| {
                    writer.varint(1, duration.as_nanos() as i64 as u64);
                    Ok(())
                })?;
            }
            Scalar::IntOrString => self.int_or_string(tag, value)?,
            Scalar::RawExtension | Scalar::Json | Scalar::FieldsV1 => {
                let raw = serde_json::to_vec(value).map_err(|error| ProtobufError::Json(error.to_string()))?;
                self.writer.message(tag, |writer| {
                    writer.bytes(1, &raw);
                    Ok(())
                })?;
            }
            Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStringArray => {
                self.schema_or(tag, scalar, value)?;
            }
            Scalar::Any => return Err(ProtobufError::NoWireForm("a free-form value".to_owned())),
        }
        Ok(())
    }

    fn pair(&mut self, tag: u32, first: u64, second: u64) -> Result<(), ProtobufError> {
        self.writer.message(tag, |writer| {
            writer.varint(2, second);
            writer.varint(1, first);
            Ok(())
        })
    }

    fn int_or_string(&mut self, tag: u32, value: &Value) -> Result<(), ProtobufError> {
        let (kind, number, text) = match value {
            Value::String(text) => (1, 0, text.as_str()),
            Value::Number(number) => (0, number.as_i64().ok_or_else(unfit)?, ""),
            _ => return Err(unfit()),
        };
        self.writer.message(tag, |writer| {
            writer.text(3, text);
            writer.varint(2, number as u64);
            writer.varint(1, kind);
            Ok(())
        })
    }

    fn schema_or(&mut self, tag: u32, scalar: Scalar, value: &Value) -> Result<(), ProtobufError> {
        let Some(id) = self.schema.json_schema() else { return Err(unfit()) };
        let schema_tag = if scalar == Scalar::SchemaOrBool { 2 } else { 1 };
        self.nested(tag, |encoder| match (scalar, value) {
            (_, Value::Object(fields)) => {
                encoder.nested(schema_tag, |encoder| encoder.fields(id, fields))?;
                if scalar == Scalar::SchemaOrBool {
                    encoder.writer.varint(1, 1);
                }
                Ok(())
            }
            (Scalar::SchemaOrBool, Value::Bool(allows)) => {
                encoder.writer.varint(1, u64::from(*allows));
                Ok(())
            }
            (Scalar::SchemaOrArray, value) => encoder.list(2, &Kind::Message(id), value),
            (_, value) => encoder.list(2, &Kind::Scalar(Scalar::String), value),
        })
    }
}

fn unfit() -> ProtobufError {
    ProtobufError::Value { path: String::new() }
}

/// Names the field in which a value did not fit.
fn within(error: ProtobufError, name: &str) -> ProtobufError {
    match error {
        ProtobufError::Value { path } if path.is_empty() => ProtobufError::Value { path: name.to_owned() },
        ProtobufError::Value { path } => ProtobufError::Value { path: format!("{name}.{path}") },
        other => other,
    }
}
