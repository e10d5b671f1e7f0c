//! Reads the compact schema table.
//!
//! `table.txt` holds one fact per place: JSON name, protobuf tag, type, list
//! type, patch strategy, default. Grammar, one item per line:
//!
//! - `=apps/v1` starts a package; `;` starts a comment.
//! - `#Deployment TL` starts a message. `T`: has `apiVersion` and `kind`;
//!   `A`: atomic for apply; `L`: a list message exists (derived, not written).
//! - `name[:tag] type [flags] [~patch] [=default]` is a field; a missing tag is
//!   the previous one plus 1.
//! - Types: `s` string (`s:Name` a named string type), `b` bool, `i` int32, `l`
//!   int64, `d` double, `y` bytes, `q` Quantity, `t` Time, `u` MicroTime, `x`
//!   IntOrString, `n` Duration, `r` RawExtension, `j` JSON, `f` FieldsV1, `a` any,
//!   `B` `R` `P` the three schema-or types; otherwise a message: `Name`,
//!   `m.Name` (meta/v1), `c.Name` (core/v1), `pkg/v1.Name`; `Name%` is a copy
//!   that apply treats field by field although the message is atomic.
//! - Type prefixes: `[]` atomic list, `[=]` set, `[a,b]` list keyed by a and b,
//!   `[w]` list wrapped in a message, `{}` map, `{!}` atomic map.
//! - Flags: `?` omitempty, `!` required, `o` optional though written when empty,
//!   `*` pointer, `>` inline.
//! - Patch: `m` merge, `k` retainKeys, `x` replace, then `/` and the merge key.
//!
//! The text is part of the program and covered by tests, so malformed lines are
//! programming errors and panic.

use std::{borrow::Cow, collections::HashMap};

use super::{Field, Kind, ListType, Message, MessageId, PatchStrategy, Scalar, Schema};
use crate::group_version::Name;

const TABLE: &str = include_str!("table.txt");

/// Builds the built-in schema.
pub(super) fn builtin() -> Schema {
    let mut reader = Reader::default();
    for line in TABLE.lines() {
        reader.line(line);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    package: &'static str,
    /// Ids are given on first mention; definition may come later.
    ids: HashMap<(Name, Name), MessageId>,
    messages: Vec<Message>,
    granular: Vec<(MessageId, MessageId)>,
    lists: Vec<(&'static str, &'static str)>,
    current: usize,
    tag: u32,
}

impl Reader {
    fn id(&mut self, package: &'static str, name: impl Into<Name>) -> MessageId {
        let next = MessageId(self.messages.len() as u32);
        let (package, name) = (Name::Borrowed(package), name.into());
        let messages = &mut self.messages;
        *self.ids.entry((package.clone(), name.clone())).or_insert_with(|| {
            messages.push(Message { package, name, ..Message::default() });
            next
        })
    }

    fn line(&mut self, line: &'static str) {
        match line.as_bytes().first() {
            None | Some(b';') => {}
            Some(b'=') => self.package = &line[1..],
            Some(b'#') => self.message(&line[1..]),
            Some(_) => self.field(line),
        }
    }

    fn message(&mut self, line: &'static str) {
        let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
        let id = self.id(self.package, name);
        self.current = id.0 as usize;
        self.tag = 0;
        let message = &mut self.messages[self.current];
        message.type_meta = flags.contains('T');
        message.atomic = flags.contains('A');
        if flags.contains('L') {
            self.lists.push((self.package, name));
        }
    }

    fn field(&mut self, line: &'static str) {
        let mut parts = line.splitn(3, ' ');
        let (name, code) = (parts.next().unwrap_or_default(), parts.next().expect("field has a type"));
        let (json, tag) = match name.split_once(':') {
            Some((json, tag)) => (json, tag.parse().expect("tag is a number")),
            None => (name, self.tag + 1),
        };
        let (code, type_name) = code.split_once(':').unwrap_or((code, ""));
        let mut field = Field {
            json: json.into(),
            kind: self.kind(code),
            tag,
            required: false,
            omit_empty: false,
            pointer: false,
            inline: false,
            nullable: false,
            patch: PatchStrategy::default(),
            merge_key: None,
            default: None,
            type_name: type_name.into(),
        };
        self.tag = tag;
        let mut optional = false;
        let mut rest = parts.next().unwrap_or_default();
        while !rest.is_empty() {
            if let Some(default) = rest.strip_prefix('=') {
                field.default = Some(Box::new(serde_json::from_str(default).expect("default is JSON")));
                break;
            }
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = tail;
            match word.strip_prefix('~') {
                Some(patch) => patch_strategy(&mut field, patch),
                None => {
                    field.omit_empty = word.contains('?');
                    field.required = word.contains('!');
                    field.pointer = word.contains('*');
                    field.inline = word.contains('>');
                    optional = word.contains('o');
                }
            }
        }
        field.required |= !field.omit_empty && !field.inline && !optional;
        self.messages[self.current].fields.push(field);
    }

    fn kind(&mut self, code: &'static str) -> Kind {
        if let Some(value) = code.strip_prefix("{!}") {
            return Kind::Map { value: Box::new(self.kind(value)), atomic: true };
        }
        if let Some(value) = code.strip_prefix("{}") {
            return Kind::Map { value: Box::new(self.kind(value)), atomic: false };
        }
        if let Some((list, element)) = code.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let list_type = match list {
                "" | "w" => ListType::Atomic,
                "=" => ListType::Set,
                keys => ListType::Map(keys.split(',').map(Cow::Borrowed).collect()),
            };
            return Kind::List { element: Box::new(self.kind(element)), list_type, wrapped: list == "w" };
        }
        match scalar(code) {
            Some(scalar) => Kind::Scalar(scalar),
            None => Kind::Message(self.reference(code)),
        }
    }

    fn reference(&mut self, code: &'static str) -> MessageId {
        let (package, name) = match code.split_once('.') {
            Some(("m", name)) => ("meta/v1", name),
            Some(("c", name)) => ("core/v1", name),
            Some((package, name)) => (package, name),
            None => (self.package, code),
        };
        match name.strip_suffix('%') {
            Some(plain) => {
                let source = self.id(package, plain);
                let copy = self.id(package, name);
                self.granular.push((copy, source));
                copy
            }
            None => self.id(package, name),
        }
    }

    fn finish(mut self) -> Schema {
        for (package, name) in std::mem::take(&mut self.lists) {
            self.list_message(package, name);
        }
        for (copy, source) in std::mem::take(&mut self.granular) {
            let fields = self.messages[source.0 as usize].fields.clone();
            self.messages[copy.0 as usize].fields = fields;
        }
        Schema::assemble(self.messages, self.ids)
    }

    /// `metadata` and `items`, as every list of objects has.
    fn list_message(&mut self, package: &'static str, name: &'static str) {
        let item = self.id(package, name);
        let meta = self.id("meta/v1", "ListMeta");
        let field = |json: &'static str, kind: Kind, tag: u32, omit_empty: bool| Field {
            json: json.into(),
            kind,
            tag,
            required: !omit_empty,
            omit_empty,
            pointer: false,
            inline: false,
            nullable: false,
            patch: PatchStrategy::default(),
            merge_key: None,
            default: None,
            type_name: "".into(),
        };
        let items = Kind::List { element: Box::new(Kind::Message(item)), list_type: ListType::Atomic, wrapped: false };
        let id = self.id(package, format!("{name}List"));
        let message = &mut self.messages[id.0 as usize];
        message.type_meta = true;
        message.fields = vec![field("metadata", Kind::Message(meta), 1, true), field("items", items, 2, false)];
    }
}

fn patch_strategy(field: &mut Field, text: &'static str) {
    let (flags, key) = text.split_once('/').unwrap_or((text, ""));
    field.patch =
        PatchStrategy { merge: flags.contains('m'), retain_keys: flags.contains('k'), replace: flags.contains('x') };
    field.merge_key = (!key.is_empty()).then(|| key.into());
}

fn scalar(code: &str) -> Option<Scalar> {
    Some(match code {
        "s" => Scalar::String,
        "b" => Scalar::Bool,
        "i" => Scalar::Int32,
        "l" => Scalar::Int64,
        "d" => Scalar::Double,
        "y" => Scalar::Bytes,
        "q" => Scalar::Quantity,
        "t" => Scalar::Time,
        "u" => Scalar::MicroTime,
        "x" => Scalar::IntOrString,
        "n" => Scalar::Duration,
        "r" => Scalar::RawExtension,
        "j" => Scalar::Json,
        "f" => Scalar::FieldsV1,
        "a" => Scalar::Any,
        "B" => Scalar::SchemaOrBool,
        "R" => Scalar::SchemaOrArray,
        "P" => Scalar::SchemaOrStringArray,
        _ => return None,
    })
}
