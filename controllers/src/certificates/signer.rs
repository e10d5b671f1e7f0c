//! The built-in signers and what each of them signs: upstream's rules and wording.

use std::time::Duration;

use super::Request;

/// Shortest life of a certificate, whatever was asked for.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

/// A signer of `kubernetes.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Clients of the API server.
    ApiServerClient,
    /// Kubelets as clients of the API server.
    KubeletClient,
    /// What kubelets show to their clients.
    KubeletServing,
    /// No rules and no promises.
    LegacyUnknown,
}

impl Signer {
    pub fn named(name: &str) -> Option<Signer> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Signer::ApiServerClient),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Signer::KubeletClient),
            "kubernetes.io/kubelet-serving" => Some(Signer::KubeletServing),
            "kubernetes.io/legacy-unknown" => Some(Signer::LegacyUnknown),
            _ => None,
        }
    }
}

/// Why a signer does not sign a request; `None` when it does.
pub fn refusal(signer: Signer, request: &Request) -> Option<String> {
    match signer {
        Signer::ApiServerClient => client_usages(request),
        Signer::KubeletClient => kubelet_client(request),
        Signer::KubeletServing => kubelet_serving(request),
        Signer::LegacyUnknown => None,
    }
}

fn client_usages(request: &Request) -> Option<String> {
    let optional = ["digital signature", "key encipherment"];
    for usage in &request.usages {
        if usage != "client auth" && !optional.contains(&usage.as_str()) {
            return Some(format!("invalid usage for client certificate: {usage}"));
        }
    }
    let has = request.usages.iter().any(|usage| usage == "client auth");
    (!has).then(|| "missing required usage for client certificate: client auth".to_owned())
}

fn kubelet_client(request: &Request) -> Option<String> {
    let why = if request.organizations != ["system:nodes"] {
        "subject organization is not system:nodes"
    } else if request.dns_names > 0 {
        "DNS subjectAltNames are not allowed"
    } else if request.emails > 0 {
        "Email subjectAltNames are not allowed"
    } else if request.addresses > 0 {
        "IP subjectAltNames are not allowed"
    } else if request.uris > 0 {
        "URI subjectAltNames are not allowed"
    } else if !request.common_name.starts_with("system:node:") {
        "subject common name does not begin with system:node:"
    } else {
        return wrong_usages(request, "client auth");
    };
    Some(why.to_owned())
}

fn kubelet_serving(request: &Request) -> Option<String> {
    let why = if request.organizations != ["system:nodes"] {
        "subject organization is not system:nodes"
    } else if request.dns_names + request.addresses == 0 {
        "DNS or IP subjectAltName is required"
    } else if request.emails > 0 {
        "Email subjectAltNames are not allowed"
    } else if request.uris > 0 {
        "URI subjectAltNames are not allowed"
    } else if let Some(why) = wrong_usages(request, "server auth") {
        return Some(why);
    } else if !request.common_name.starts_with("system:node:") {
        "subject common name does not begin with system:node:"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Exactly signing, the purpose, and perhaps encipherment (for RSA keys).
fn wrong_usages(request: &Request, purpose: &str) -> Option<String> {
    let mut usages: Vec<&str> = request.usages.iter().map(String::as_str).collect();
    usages.sort_unstable();
    usages.dedup();
    let mut wanted = vec!["digital signature", "key encipherment", purpose];
    wanted.sort_unstable();
    let without: Vec<&str> = wanted.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    (usages != wanted && usages != without).then(|| format!("usages did not match [{}]", wanted.join(" ")))
}

/// How long a certificate lives.
pub fn lifetime(asked_seconds: Option<u64>, max: Duration) -> Duration {
    asked_seconds.map_or(max, |seconds| Duration::from_secs(seconds).max(LIFETIME_MIN).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(usages: &[&str]) -> Request {
        Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let client = node(&["digital signature", "client auth"]);
        assert_eq!(refusal(Signer::KubeletClient, &client), None);
        assert_eq!(
            refusal(Signer::KubeletClient, &Request { dns_names: 1, ..client.clone() }).unwrap(),
            "DNS subjectAltNames are not allowed"
        );
        assert_eq!(
            refusal(Signer::KubeletClient, &node(&["client auth"])).unwrap(),
            "usages did not match [client auth digital signature key encipherment]"
        );
        let serving = Request { addresses: 1, ..node(&["digital signature", "key encipherment", "server auth"]) };
        assert_eq!(refusal(Signer::KubeletServing, &serving), None);
        assert_eq!(
            refusal(Signer::KubeletServing, &Request { addresses: 0, ..serving }).unwrap(),
            "DNS or IP subjectAltName is required"
        );
        assert_eq!(
            refusal(Signer::ApiServerClient, &node(&["server auth"])).unwrap(),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(
            refusal(Signer::ApiServerClient, &node(&["digital signature"])).unwrap(),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(refusal(Signer::LegacyUnknown, &Request::default()), None);
    }

    #[test]
    fn a_life_is_neither_too_short_nor_too_long() {
        let max = Duration::from_secs(86_400);
        assert_eq!(lifetime(None, max), max);
        assert_eq!(lifetime(Some(1), max), LIFETIME_MIN);
        assert_eq!(lifetime(Some(3600), max).as_secs(), 3600);
        assert_eq!(lifetime(Some(1 << 40), max), max);
    }
}
