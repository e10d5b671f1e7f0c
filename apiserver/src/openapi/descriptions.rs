//! What fields and kinds mean, for `kubectl explain`.
//!
//! The texts are taken from the API crate at build time and lie compressed in
//! the binary. They are unpacked while documents are made and then dropped:
//! documents themselves are kept, compressed too.

use std::{
    collections::HashMap,
    io::Read,
    sync::{Arc, Weak},
};

use flate2::read::GzDecoder;
use parking_lot::Mutex;

/// Written by the build script: `=component<TAB>text`, then lines
/// `field<TAB>text`; line breaks in a text are vertical tabs.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

static LOADED: Mutex<Weak<Descriptions>> = Mutex::new(Weak::new());

/// Descriptions of components, by component name.
#[derive(Default)]
pub struct Descriptions {
    components: HashMap<String, Component>,
}

#[derive(Default)]
struct Component {
    text: String,
    fields: HashMap<String, String>,
}

impl Descriptions {
    /// The descriptions, unpacked once for everyone who holds them at the same time.
    pub fn shared() -> Arc<Descriptions> {
        let mut loaded = LOADED.lock();
        if let Some(present) = loaded.upgrade() {
            return present;
        }
        let mut text = String::new();
        // Packed by our own build.
        let _ = GzDecoder::new(PACKED).read_to_string(&mut text);
        let made = Arc::new(Descriptions::parse(&text));
        *loaded = Arc::downgrade(&made);
        made
    }

    fn parse(text: &str) -> Descriptions {
        let mut components: HashMap<String, Component> = HashMap::new();
        let mut current = String::new();
        for line in text.lines() {
            let Some((name, text)) = line.split_once('\t') else { continue };
            let text = text.replace('\u{b}', "\n");
            if let Some(name) = name.strip_prefix('=') {
                current = name.to_owned();
                components.entry(current.clone()).or_default().text = text;
            } else if let Some(component) = components.get_mut(&current) {
                component.fields.insert(name.to_owned(), text);
            }
        }
        Descriptions { components }
    }

    /// What a kind or structure is.
    pub fn of(&self, component: &str) -> Option<&str> {
        self.components.get(component).map(|component| component.text.as_str()).filter(|text| !text.is_empty())
    }

    /// What a field is for.
    pub fn of_field(&self, component: &str, field: &str) -> Option<&str> {
        self.components.get(component)?.fields.get(field).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_line_breaks() {
        let parsed = Descriptions::parse("=a.B\tA thing.\nname\tFirst.\u{b}Second.\n");
        assert_eq!(parsed.of("a.B"), Some("A thing."));
        assert_eq!(parsed.of_field("a.B", "name"), Some("First.\nSecond."));
        assert_eq!(parsed.of_field("a.B", "other"), None);
    }

    #[test]
    fn the_build_found_the_texts() {
        assert!(Descriptions::shared().components.len() > 500);
    }
}
