//! A number by which a changed object is told from an unchanged one, without
//! keeping a copy of it.
//!
//! Equal objects have equal numbers. Different ones have different numbers but
//! for an accident of one in 2^64, whose price must be small: what compares
//! fingerprints does so to leave out work, never to let something pass.

use std::hash::{Hash, Hasher};

use serde_json::Value;

/// Multiply and rotate, eight bytes at a time: an object of some kilobytes takes microseconds.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(Self::FACTOR);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(byte.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn finish(&self) -> u64 {
        // The high bits know of every word, the low ones do not.
        self.0 ^ (self.0 >> 32)
    }
}

/// The number of an object, whatever its `managedFields`: they are half of many
/// objects, and nothing that depends on a change depends on theirs.
pub(super) fn fingerprint(object: &Value) -> u64 {
    let mut mixer = Mixer::default();
    match object {
        Value::Object(fields) => {
            for (name, value) in fields {
                name.hash(&mut mixer);
                match value {
                    Value::Object(metadata) if name == "metadata" => {
                        metadata
                            .iter()
                            .filter(|(name, _)| *name != "managedFields")
                            .for_each(|field| field.hash(&mut mixer));
                    }
                    _ => value.hash(&mut mixer),
                }
            }
        }
        _ => object.hash(&mut mixer),
    }
    mixer.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_differ_wherever_they_differ() {
        let object =
            json!({"metadata": {"name": "a", "labels": {}}, "spec": {"list": ["a", "bc"], "n": 1, "on": true}});
        assert_eq!(fingerprint(&object), fingerprint(&object.clone()));
        let changes: [fn(&mut Value); 8] = [
            |object| object["metadata"]["name"] = json!("b"),
            |object| object["metadata"]["labels"]["x"] = json!(""),
            |object| object["spec"]["list"] = json!(["ab", "c"]),
            |object| object["spec"]["list"] = json!(["bc", "a"]),
            |object| object["spec"]["n"] = json!(2),
            |object| object["spec"]["n"] = json!("1"),
            |object| object["spec"]["on"] = json!(false),
            |object| object["spec"]["on"] = Value::Null,
        ];
        let mut seen = vec![fingerprint(&object)];
        let mut managed = object.clone();
        managed["metadata"]["managedFields"] = json!([{"manager": "m"}]);
        assert_eq!(fingerprint(&managed), seen[0]);
        for change in changes {
            let mut changed = object.clone();
            change(&mut changed);
            seen.push(fingerprint(&changed));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
