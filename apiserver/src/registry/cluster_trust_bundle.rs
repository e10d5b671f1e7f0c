//! ClusterTrustBundles: PEM certificates under a name that its signer owns.

use serde_json::Value;
use skiff_api::Cause;
use x509_parser::{
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

use super::{
    names,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{name, text},
};

pub struct ClusterTrustBundleStrategy;

impl Strategy for ClusterTrustBundleStrategy {
    /// A signer's prefix is checked with the rest; here only what a path can hold.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        let signer = text(spec, "signerName");
        bundle_name(&mut errors, name(object), signer);
        if !signer.is_empty() {
            errors.invalid_all(&path.child("signerName"), signer, formats::domain_prefixed_path(signer));
        }
        anchors(&mut errors, &path.child("trustBundle"), text(spec, "trustBundle"));
        if let Operation::Update { old } = op {
            errors.immutable(&path.child("signerName"), &spec["signerName"], &old["spec"]["signerName"]);
        }
        errors.into_causes()
    }
}

fn bundle_name(errors: &mut Errors, name: &str, signer: &str) {
    let metadata = Path::new("metadata");
    let path = metadata.child("name");
    if signer.is_empty() {
        if name.contains(':') {
            errors.invalid(&path, name, "ClusterTrustBundle without signer name must not have \":\" in its name");
        } else {
            errors.invalid_all(&path, name, names::dns1123_subdomain(name, false));
        }
        return;
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => errors.invalid_all(&path, name, names::dns1123_subdomain(rest, false)),
        None => errors.invalid(
            &path,
            name,
            format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"),
        ),
    }
}

fn anchors(errors: &mut Errors, path: &Path<'_>, bundle: &str) {
    const SHOWN: &str = "<value omitted>";
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for (index, block) in Pem::iter_from_buffer(bundle.as_bytes()).enumerate() {
        let Ok(block) = block else {
            errors.invalid(path, SHOWN, format!("entry {index} is not PEM"));
            return;
        };
        if block.label != "CERTIFICATE" {
            errors.invalid(path, SHOWN, format!("entry {index} has bad block type: {}", block.label));
        } else if X509Certificate::from_der(&block.contents).is_err() {
            errors.invalid(path, SHOWN, format!("entry {index} does not parse as X.509"));
        } else if let Some(first) = seen.iter().position(|known| *known == block.contents) {
            errors.invalid(path, SHOWN, format!("duplicate trust anchor (indices [{first} {index}])"));
        }
        seen.push(block.contents);
    }
    if seen.is_empty() {
        errors.invalid(path, SHOWN, "at least one trust anchor must be provided");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::wrong;
    use serde_json::json;

    #[test]
    fn names_belong_to_signers_and_bundles_hold_certificates() {
        let bundle = |name: &str, signer: &str| json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": "x"}});
        let empty = "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided";
        assert_eq!(wrong(&ClusterTrustBundleStrategy, bundle("example.com:a:one", "example.com/a")), [empty]);
        assert_eq!(
            wrong(&ClusterTrustBundleStrategy, bundle("one", "example.com/a"))[0],
            "metadata.name: Invalid value: \"one\": ClusterTrustBundle for signerName example.com/a must be named with prefix example.com:a:"
        );
        assert_eq!(wrong(&ClusterTrustBundleStrategy, bundle("a:b", "")).len(), 2);
        let pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let wrongs =
            wrong(&ClusterTrustBundleStrategy, json!({"metadata": {"name": "a"}, "spec": {"trustBundle": pem}}));
        assert!(wrongs[0].ends_with("entry 0 has bad block type: PUBLIC KEY"), "{wrongs:?}");
    }
}
