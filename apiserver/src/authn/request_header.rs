//! Identity forwarded by a front proxy in `X-Remote-*` headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;

use super::{UserInfo, x509};

const EXTRA_PREFIX: &str = "x-remote-extra-";

/// Whether the certificate is one of a front proxy: its CA was checked before, its name is here.
pub fn is_proxy(certificate: &CertificateDer<'_>, allowed: &[String]) -> bool {
    match x509::subject(certificate) {
        Some(subject) => allowed.is_empty() || allowed.contains(&subject.common_name),
        None => false,
    }
}

/// The user the proxy names, if it names one.
pub fn user(headers: &HeaderMap) -> Option<UserInfo> {
    let text = |value: &http::HeaderValue| value.to_str().ok().filter(|text| !text.is_empty()).map(str::to_owned);
    let username = headers.get("x-remote-user").and_then(text)?;
    let groups = headers.get_all("x-remote-group").iter().filter_map(text).collect();
    let uid = headers.get("x-remote-uid").and_then(text).unwrap_or_default();
    Some(UserInfo { username, uid, groups, extra: extra(headers, EXTRA_PREFIX) })
}

/// Headers that carry extra data: the key is percent-encoded behind the prefix.
pub(super) fn extra(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix), value.to_str()) else { continue };
        let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
        extra.entry(key).or_default().push(value.to_owned());
    }
    extra
}

/// Removes identity headers so that they cannot be forwarded by accident.
pub fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_extra_are_collected() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "a".parse().unwrap());
        headers.append("x-remote-group", "g1".parse().unwrap());
        headers.append("x-remote-group", "g2".parse().unwrap());
        headers.append("x-remote-extra-example.org%2fscope", "s".parse().unwrap());
        let user = super::user(&headers).unwrap();
        assert_eq!(user.groups, ["g1", "g2"]);
        assert_eq!(user.extra["example.org/scope"], ["s"]);
        strip(&mut headers);
        assert!(headers.is_empty());
        headers.insert("x-remote-user", "".parse().unwrap());
        assert_eq!(super::user(&headers), None, "an empty name is none");
    }
}
