//! What is noted while a request is worked on: texts for `Warning` headers, and
//! annotations of its event in the audit log.

use http::{HeaderValue, header::HeaderName};
use parking_lot::Mutex;

const WARNING: HeaderName = http::header::WARNING;
/// Texts of one response; more are dropped.
const WARNINGS_MAX: usize = 128;
/// Bytes of all texts of one response; what does not fit is dropped.
const WARNING_BYTES_MAX: usize = 4096;

/// Annotations of one request; more are dropped.
const ANNOTATIONS_MAX: usize = 128;

/// Annotations of an audit event: keys and values.
pub type Annotations = Vec<(String, String)>;

/// The warnings of one request, each only once.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>, Mutex<Annotations>);

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.0.lock();
        if all.len() < WARNINGS_MAX && !text.is_empty() && !all.contains(&text) {
            all.push(text);
        }
    }

    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.add(text);
        }
    }

    /// Owners that were named more than once, by uid.
    pub fn repeated_owners(&self, uids: &[String], after_admission: bool) {
        if uids.is_empty() {
            return;
        }
        let when = if after_admission { " after mutating admission happens" } else { "" };
        self.add(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            uids.join(", ")
        ));
    }

    /// Notes an annotation; of one key the first value stays.
    pub fn annotate(&self, key: String, value: String) {
        let mut all = self.1.lock();
        if all.len() < ANNOTATIONS_MAX && all.iter().all(|(have, _)| *have != key) {
            all.push((key, value));
        }
    }

    /// The annotations noted so far.
    pub fn take_annotations(&self) -> Annotations {
        std::mem::take(&mut *self.1.lock())
    }

    /// Puts the texts into headers: code 299, no agent, quoted text.
    pub fn write(&self, headers: &mut http::HeaderMap) {
        let mut bytes = 0;
        for text in self.0.lock().iter() {
            bytes += text.len();
            if bytes > WARNING_BYTES_MAX {
                return;
            }
            if let Ok(value) = HeaderValue::from_bytes(quoted(text).as_bytes()) {
                headers.append(WARNING, value);
            }
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_and_written_once() {
        let warnings = Warnings::default();
        warnings.add("unknown field \"spec.x\"");
        warnings.add("unknown field \"spec.x\"");
        let mut headers = http::HeaderMap::new();
        warnings.write(&mut headers);
        let all: Vec<_> = headers.get_all(WARNING).iter().collect();
        assert_eq!(all, [r#"299 - "unknown field \"spec.x\"""#]);
    }
}
