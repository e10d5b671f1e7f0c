//! Rules of names, labels and keys, with upstream's wording.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            lower_alnum(first) && lower_alnum(last) && bytes.iter().all(|&byte| lower_alnum(byte) || byte == b'-')
        }
        _ => false,
    }
}

/// A prefix may end in what only a longer name makes valid.
fn complete(name: &str, prefix: bool) -> String {
    if prefix { name.strip_suffix('-').map_or_else(|| name.to_owned(), |cut| format!("{cut}a")) } else { name.to_owned() }
}

/// DNS-1123 subdomain: the rule of most names.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = complete(name, prefix);
    let mut errors = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !name.split('.').all(is_label) {
        errors.push(SUBDOMAIN_TEXT.to_owned());
    }
    errors
}

/// DNS-1123 label: namespaces, container and volume names.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = complete(name, prefix);
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(&name) {
        errors.push(LABEL_TEXT.to_owned());
    }
    errors
}

/// DNS-1035 label: services.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = complete(name, prefix);
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(&name) || !name.as_bytes()[0].is_ascii_lowercase() {
        errors.push(LABEL_1035_TEXT.to_owned());
    }
    errors
}

/// Anything that fits one segment of a URL path: RBAC names.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ['/', '%'].into_iter().filter(|bad| name.contains(*bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// Label and annotation keys: optional `domain/` prefix and a short name.
pub fn qualified_name(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                &QUALIFIED_TEXT["name part ".len()..]
            )];
        }
        Some(("", rest)) => {
            errors.push("prefix part must be non-empty".to_owned());
            rest
        }
        Some((prefix, rest)) => {
            errors.extend(dns1123_subdomain(prefix, false).into_iter().map(|error| format!("prefix part {error}")));
            rest
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified(name) {
        errors.push(QUALIFIED_TEXT.to_owned());
    }
    errors
}

/// Values of labels.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified(value) {
        errors.push(LABEL_VALUE_TEXT.to_owned());
    }
    errors
}

fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains_are_checked_label_by_label() {
        assert!(dns1123_subdomain("a.b-c.d0", false).is_empty());
        for bad in ["", "A", "a..b", "-a", "a-", "a_b"] {
            assert!(!dns1123_subdomain(bad, false).is_empty(), "{bad}");
        }
        assert!(dns1123_subdomain("web-", true).is_empty());
    }

    #[test]
    fn services_start_with_a_letter() {
        assert!(dns1035_label("a1", false).is_empty());
        assert!(!dns1035_label("1a", false).is_empty());
        assert!(!dns1035_label("", false).is_empty());
    }

    #[test]
    fn label_keys_take_one_optional_prefix() {
        assert!(qualified_name("app.kubernetes.io/name").is_empty());
        for bad in ["", "/a", "a/", "a/b/c", "UPPER.io/x", "a b"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
    }
}
