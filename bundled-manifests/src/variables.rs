//! What differs between clusters.

/// Values for the templates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// Addresses of the DNS service, one per family, the first one primary.
    pub cluster_dns: Vec<String>,
    /// For example `cluster.local`.
    pub cluster_domain: String,
    /// Image of Skiff itself, which serves DNS.
    pub system_image: String,
    /// Networks of all pods, one per family.
    pub cluster_cidrs: Vec<String>,
    /// `vxlan` or `host-gw`.
    pub flannel_backend: String,
}

impl Variables {
    /// The value of a template variable; `None` when there is no such variable.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        Some(match name {
            "CLUSTER_DNS" => self.cluster_dns.first().cloned().unwrap_or_default(),
            "CLUSTER_DNS_LIST" => {
                self.cluster_dns.iter().map(|address| format!("{address:?}")).collect::<Vec<_>>().join(", ")
            }
            "CLUSTER_DNS_FAMILY_POLICY" => {
                if self.cluster_dns.len() > 1 { "RequireDualStack" } else { "SingleStack" }.to_owned()
            }
            "CLUSTER_DOMAIN" => self.cluster_domain.clone(),
            "SYSTEM_IMAGE" => self.system_image.clone(),
            "FLANNEL_NET_CONF" => self.flannel_net_conf(),
            _ => return None,
        })
    }

    /// flannel's `net-conf.json` on one line.
    fn flannel_net_conf(&self) -> String {
        let of_family = |is_v6: bool| self.cluster_cidrs.iter().find(|cidr| cidr.contains(':') == is_v6);
        let mut fields = vec![
            format!(r#""EnableIPv4":{}"#, of_family(false).is_some()),
            format!(r#""EnableIPv6":{}"#, of_family(true).is_some()),
        ];
        fields.extend(of_family(false).map(|cidr| format!(r#""Network":"{cidr}""#)));
        fields.extend(of_family(true).map(|cidr| format!(r#""IPv6Network":"{cidr}""#)));
        fields.push(format!(r#""Backend":{{"Type":"{}"}}"#, self.flannel_backend));
        format!("{{{}}}", fields.join(","))
    }
}
