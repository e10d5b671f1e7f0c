//! Rules of object names, for whole names and for prefixes of generated ones.

use skiff_api::names;

/// A prefix may end in what only a longer name makes valid.
fn complete(name: &str, prefix: bool) -> String {
    if prefix {
        name.strip_suffix('-').map_or_else(|| name.to_owned(), |cut| format!("{cut}a"))
    } else {
        name.to_owned()
    }
}

/// DNS-1123 subdomain: the rule of most names.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    names::dns1123_subdomain(&complete(name, prefix))
}

/// DNS-1123 label: namespaces.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    names::dns1123_label(&complete(name, prefix))
}

/// DNS-1035 label: services.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    names::dns1035_label(&complete(name, prefix))
}

/// Anything that fits one segment of a URL path: RBAC names.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix && (name == "." || name == "..") { Vec::new() } else { names::path_segment(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(dns1123_subdomain("web-", true).is_empty());
        assert!(!dns1123_subdomain("web-", false).is_empty());
        assert!(!dns1123_subdomain("Web-", true).is_empty());
    }
}
