//! Lets the certificate controller sign with the cluster's authorities and ask the API server's authorizer.

use std::{sync::Arc, time::Duration};

use skiff_apiserver::{
    UserInfo,
    authz::{Attributes, Authorizer},
};
use skiff_controllers::{
    CertificateAuthority,
    certificates::{Requester, Signer},
};

use crate::pki::{LEAF_DAYS, ServerPki};

pub struct ClusterSigner {
    pub pki: Arc<ServerPki>,
    pub authorizer: Arc<dyn Authorizer>,
}

impl CertificateAuthority for ClusterSigner {
    fn sign(&self, signer: Signer, request: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String> {
        let authority = match signer {
            Signer::ApiServerClient | Signer::KubeletClient => &self.pki.client_ca,
            Signer::KubeletServing | Signer::LegacyUnknown => &self.pki.server_ca,
        };
        let now = jiff::Timestamp::now().as_second();
        authority.sign_as_requested(request, usages, lifetime, now).map_err(|error| error.to_string())
    }

    fn lifetime_max(&self) -> Duration {
        Duration::from_secs(LEAF_DAYS.unsigned_abs() * 86_400)
    }

    fn may_create(&self, requester: &Requester, subresource: &str) -> bool {
        let Requester { username, uid, groups, extra } = requester.clone();
        let attributes = Attributes {
            user: UserInfo { username, uid, groups, extra },
            verb: "create".to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "certificatesigningrequests".to_owned(),
            subresource: subresource.to_owned(),
            ..Attributes::default()
        };
        self.authorizer.authorize(&attributes).is_allowed()
    }
}
