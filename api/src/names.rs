//! Rules for names, label keys and values, and generated suffixes.
//!
//! Every check returns upstream's messages, which users read in `Invalid`
//! answers; an empty list means the text is good.

use rand::Rng;

/// Longest DNS-1123 label and label value.
pub const LABEL_LEN_MAX: usize = 63;
/// Longest DNS-1123 subdomain: most object names.
pub const SUBDOMAIN_LEN_MAX: usize = 253;
/// Longest base of a generated name; the suffix must still fit a label.
pub const GENERATED_BASE_LEN_MAX: usize = LABEL_LEN_MAX - SUFFIX_LEN;
const SUFFIX_LEN: usize = 5;

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Starts and ends with `edge`, and holds only `inner` between.
fn framed(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|byte| inner(*byte)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    framed(text, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    framed(text, |byte| byte.is_ascii_alphanumeric(), |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A DNS-1123 label: namespaces, container and port names.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_LEN_MAX {
        errors.push(too_long(LABEL_LEN_MAX));
    }
    if !is_label(text) {
        errors.push(LABEL_MESSAGE.to_owned());
    }
    errors
}

/// A DNS-1123 subdomain: most object names.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_LEN_MAX {
        errors.push(too_long(SUBDOMAIN_LEN_MAX));
    }
    if !text.split('.').all(is_label) {
        errors.push(SUBDOMAIN_MESSAGE.to_owned());
    }
    errors
}

/// A DNS-1035 label: Service names.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_LEN_MAX {
        errors.push(too_long(LABEL_LEN_MAX));
    }
    if !is_label(text) || !text.as_bytes()[0].is_ascii_lowercase() {
        errors.push(DNS1035_MESSAGE.to_owned());
    }
    errors
}

/// A label key, annotation key, finalizer or extended resource: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) if !name.contains('/') => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|message| format!("prefix part {message}")));
            }
            name
        }
        Some(_) => {
            return vec![format!(
                "a qualified name {QUALIFIED_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LEN_MAX {
        errors.push(format!("name part {}", too_long(LABEL_LEN_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {QUALIFIED_MESSAGE}"));
    }
    errors
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_LEN_MAX {
        errors.push(too_long(LABEL_LEN_MAX));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        errors.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    errors
}

/// A name that appears in a URL path: RBAC objects, some cluster-scoped kinds.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].into_iter().filter(|part| text.contains(part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_LEN_MAX {
        errors.push(too_long(SUBDOMAIN_LEN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        errors.push(CONFIG_KEY_MESSAGE.to_owned());
    }
    if text == "." {
        errors.push("must not be '.'".to_owned());
    } else if text == ".." {
        errors.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// The name of an environment variable.
pub fn env_var_name(text: &str) -> Vec<String> {
    let good = !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    if good { Vec::new() } else { vec![ENV_NAME_MESSAGE.to_owned()] }
}

/// The name of a container or service port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(too_long(15));
    }
    if !text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') || text.is_empty() {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// `base` plus five characters that form no words and are hard to misread.
pub fn generate_name(base: &str, rng: &mut impl Rng) -> String {
    let mut end = base.len().min(GENERATED_BASE_LEN_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix(SUFFIX_LEN, rng))
}

/// Random text of upstream's safe alphabet.
pub fn random_suffix(length: usize, rng: &mut impl Rng) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Encodes text in upstream's safe alphabet, as the pod template hash is.
pub fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn labels_and_subdomains_follow_rfc_1123() {
        for good in ["a", "a-b", "0", "a0-9z", &"x".repeat(63)] {
            assert!(dns1123_label(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ü"] {
            assert_eq!(dns1123_label(bad), [LABEL_MESSAGE], "{bad}");
        }
        assert_eq!(dns1123_label(&"x".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns1123_subdomain("a.b-c.0").is_empty());
        for bad in ["", ".a", "a.", "a..b", "a.-b"] {
            assert_eq!(dns1123_subdomain(bad), [SUBDOMAIN_MESSAGE], "{bad}");
        }
        assert!(dns1035_label("0a").len() == 1 && dns1035_label("a0").is_empty() && dns1035_label("").len() == 1);
    }

    #[test]
    fn qualified_names_have_an_optional_prefix() {
        for good in ["a", "A_b.c-d", "example.com/x", "0/1"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(qualified_name("x/")[0].starts_with("name part must be non-empty"));
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(qualified_name("A/b")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn path_segments_cannot_climb_or_escape() {
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        assert_eq!(path_segment("a/b%2f"), ["may not contain '/'", "may not contain '%'"]);
        assert!(path_segment("system:node").is_empty());
    }

    #[test]
    fn generated_names_fit_a_label() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let name = generate_name(&"x".repeat(100), &mut rng);
        assert_eq!(name.len(), LABEL_LEN_MAX);
        assert!(dns1123_label(&name).is_empty());
        assert_ne!(generate_name("web-", &mut rng), generate_name("web-", &mut rng));
    }
}
