//! The protobuf form of an OpenAPI v2 document, which kubectl and client-go ask
//! for: messages of the `openapi.v2` package, written from the JSON form.
//!
//! Tags are facts of that package. Extensions (`x-…`) travel as YAML text, of
//! which JSON is a part.

use serde_json::Value;

/// Encodes a whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, info);
    let mut paths = Message::default();
    for (path, item) in entries(&document["paths"]) {
        paths.named(2, path, path_item(item));
    }
    out.message(8, paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(&document["definitions"]) {
        definitions.named(1, name, schema(definition));
    }
    out.message(9, definitions);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(described) = item.get(method) {
            out.message(tag, operation(described));
        }
    }
    for described in items(&item["parameters"]) {
        out.message(9, parameters_item(described));
    }
    out
}

fn operation(described: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &described["operationId"]);
    out.texts(6, &described["produces"]);
    out.texts(7, &described["consumes"]);
    for parameter in items(&described["parameters"]) {
        out.message(8, parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in entries(&described["responses"]) {
        let mut answer = Message::default();
        answer.text(1, &response["description"]);
        if let Some(found) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(found));
            answer.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, answer);
        responses.named(1, code, value);
    }
    out.message(9, responses);
    out.texts(10, &described["schemes"]);
    extensions(&mut out, 13, described);
    out
}

/// `ParametersItem { parameter: Parameter }`.
fn parameters_item(described: &Value) -> Message {
    let mut parameter = Message::default();
    if described["in"] == "body" {
        let mut body = Message::default();
        body.text(2, &described["name"]);
        body.text(3, &described["in"]);
        body.flag(4, &described["required"]);
        body.message(5, schema(&described["schema"]));
        parameter.message(1, body);
    } else {
        let is_path = described["in"] == "path";
        let mut inner = Message::default();
        inner.flag(1, &described["required"]);
        inner.text(2, &described["in"]);
        inner.text(4, &described["name"]);
        // Query parameters have one more field (allowEmptyValue) in between.
        inner.text(if is_path { 5 } else { 6 }, &described["type"]);
        let mut non_body = Message::default();
        // header 1, form data 2, query 3, path 4
        non_body.message(if is_path { 4 } else { 3 }, inner);
        parameter.message(2, non_body);
    }
    let mut item = Message::default();
    item.message(1, parameter);
    item
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.message(5, any(default));
    }
    out.texts(19, &value["required"]);
    if let Some(additional) = value.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, schema(additional));
        out.message(21, item);
    }
    if let Some(kind) = value["type"].as_str() {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        out.message(22, item);
    }
    if let Some(element) = value.get("items") {
        let mut item = Message::default();
        item.message(1, schema(element));
        out.message(23, item);
    }
    if value.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, property) in entries(&value["properties"]) {
            properties.named(1, name, schema(property));
        }
        out.message(25, properties);
    }
    extensions(&mut out, 31, value);
    out
}

/// `NamedAny` for every key that starts with `x-`.
fn extensions(out: &mut Message, tag: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        out.named(tag, name, any(extension));
    }
}

/// `Any { value, yaml }`.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number as u8) | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, tag: u32, message: Message) {
        self.bytes(tag, &message.0);
    }

    /// A named value: `{1: name, 2: value}`.
    fn named(&mut self, tag: u32, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(tag, pair);
    }

    fn text(&mut self, tag: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u32, value: &Value) {
        for item in items(value) {
            self.text(tag, item);
        }
    }

    fn flag(&mut self, tag: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint(u64::from(tag << 3));
            self.varint(1);
        }
    }
}
