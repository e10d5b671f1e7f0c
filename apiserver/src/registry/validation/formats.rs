//! Formats of names, keys and values: each check returns upstream's messages,
//! none when the text is fine. Matchers are written by hand because they run
//! for every label of every write.

use crate::registry::names;

const DNS_SUBDOMAIN_BYTES_MAX: usize = 253;

const WILDCARD_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
     of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
     '*.example.com', regex used for validation is \
     '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
/// The message for text longer than a format allows.
pub fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    lower_alnum(*first) && lower_alnum(*last) && bytes.iter().all(|b| lower_alnum(*b) || *b == b'-')
}

fn check(text: &str, bytes_max: usize, fits: bool, message: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > bytes_max {
        messages.push(too_long(bytes_max));
    }
    if !fits {
        messages.push(message.to_owned());
    }
    messages
}

pub fn dns_label(text: &str) -> Vec<String> {
    names::dns1123_label(text, false)
}

pub fn dns_1035_label(text: &str) -> Vec<String> {
    names::dns1035_label(text, false)
}

pub fn dns_subdomain(text: &str) -> Vec<String> {
    names::dns1123_subdomain(text, false)
}

pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(label_shape));
    check(text, DNS_SUBDOMAIN_BYTES_MAX, fits, WILDCARD_SUBDOMAIN)
}

/// A name that is one segment of a URL path: RBAC objects may hold almost anything.
pub fn path_segment(text: &str) -> Vec<String> {
    names::path_segment(text, false)
}

/// `[prefix/]name`, the form of label and annotation keys, taints and extended resources.
pub fn qualified_name(text: &str) -> Vec<String> {
    skiff_api::names::qualified_name(text)
}

/// A qualified name with a domain before the slash.
pub fn domain_prefixed_path(text: &str) -> Vec<String> {
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            dns_subdomain(domain).into_iter().map(|message| format!("prefix part {message}")).collect()
        }
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

pub fn label_value(text: &str) -> Vec<String> {
    skiff_api::names::label_value(text)
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let mut messages = check(text, DNS_SUBDOMAIN_BYTES_MAX, fits, CONFIG_KEY);
    if text == "." || text == ".." {
        messages.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        messages.push("must not start with '..'".to_owned());
    }
    messages
}

/// Name of an environment variable: printable ASCII without `=` (relaxed rule, KEP-4369).
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must not be empty".to_owned()];
    }
    let fits = text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if fits {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// An IANA service name, as container and target ports use.
pub fn port_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 15 {
        messages.push(too_long(15));
    }
    if !text.bytes().all(|b| lower_alnum(b) || b == b'-') || text.is_empty() {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

pub fn port_number(port: i64) -> Option<&'static str> {
    if (1..=65535).contains(&port) { None } else { Some("must be between 1 and 65535, inclusive") }
}

pub fn ip_address(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

pub fn cidr(text: &str) -> Vec<String> {
    match text.parse::<ipnet::IpNet>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

pub fn http_header_name(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        return Vec::new();
    }
    vec![
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
         validation is '[-A-Za-z0-9]+')"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names_are_told_apart() {
        for good in ["a", "a-b", "1", "a1-2b"] {
            assert!(dns_label(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b"] {
            assert_eq!(dns_label(bad).len(), 1, "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d").is_empty());
        assert_eq!(dns_subdomain("a..b").len(), 1);
        assert_eq!(dns_label(&"a".repeat(64)).len(), 1);
        assert!(dns_1035_label("a1").is_empty() && !dns_1035_label("1a").is_empty());
    }

    #[test]
    fn qualified_names_have_an_optional_prefix() {
        for good in ["a", "A_b.c", "example.com/name", "k8s.io/a-b"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist"));
        assert!(qualified_name("")[0].starts_with("name part must be non-empty"));
    }

    #[test]
    fn config_keys_refuse_parent_directories() {
        assert!(config_key("a.b_C-1").is_empty());
        assert_eq!(config_key(".."), ["must not be '..'"]);
        assert_eq!(config_key("..a"), ["must not start with '..'"]);
        assert!(!config_key("a/b").is_empty());
    }

    #[test]
    fn port_names_follow_iana() {
        assert!(port_name("http-alt8").is_empty());
        assert_eq!(port_name("8080"), ["must contain at least one letter (a-z)"]);
        assert!(!port_name("Http").is_empty() && !port_name("a--b").is_empty() && !port_name("-a").is_empty());
    }
}
