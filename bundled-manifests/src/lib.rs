//! The manifests every cluster starts with, and the index of them. Data only.
//!
//! A manifest is a YAML template; [`render`] fills in what differs between
//! clusters. Variables look like `%{CLUSTER_DNS}%`. An unknown variable in a
//! template is an error, so a manifest never reaches the API half-filled.

mod variables;

pub use variables::Variables;

/// One bundled manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What users name in `--disable`.
    pub name: &'static str,
    /// The file it is written to.
    pub file_name: &'static str,
    pub template: &'static str,
}

/// All manifests, in the order they should be applied.
pub const MANIFESTS: &[Manifest] = &[
    Manifest { name: "rbac", file_name: "rbac.yaml", template: include_str!("../manifests/rbac.yaml") },
    Manifest { name: "flannel", file_name: "flannel.yaml", template: include_str!("../manifests/flannel.yaml") },
    Manifest { name: "coredns", file_name: "coredns.yaml", template: include_str!("../manifests/coredns.yaml") },
];

/// Why a manifest cannot be rendered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    #[error("no bundled manifest is called {0:?}")]
    UnknownManifest(String),
    #[error("manifest {manifest}, line {line}: unknown variable {variable:?}")]
    UnknownVariable { manifest: &'static str, line: usize, variable: String },
    #[error("manifest {manifest}, line {line}: variable is not closed by }}%")]
    Unclosed { manifest: &'static str, line: usize },
}

/// The manifest of that name with all variables filled in.
pub fn render(name: &str, variables: &Variables) -> Result<String, RenderError> {
    let manifest = MANIFESTS
        .iter()
        .find(|manifest| manifest.name == name)
        .ok_or_else(|| RenderError::UnknownManifest(name.to_owned()))?;
    let mut output = String::with_capacity(manifest.template.len() + 256);
    for (index, text) in manifest.template.lines().enumerate() {
        let (mut rest, line) = (text, index + 1);
        while let Some((before, after)) = rest.split_once("%{") {
            let (variable, after) =
                after.split_once("}%").ok_or(RenderError::Unclosed { manifest: manifest.name, line })?;
            let value = variables.get(variable).ok_or_else(|| RenderError::UnknownVariable {
                manifest: manifest.name,
                line,
                variable: variable.to_owned(),
            })?;
            output.push_str(before);
            output.push_str(&value);
            rest = after;
        }
        output.push_str(rest);
        output.push('\n');
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        Variables {
            cluster_dns: vec!["10.43.0.10".into()],
            cluster_domain: "cluster.local".into(),
            system_image: "skiff.local/system:v1".into(),
            cluster_cidrs: vec!["10.42.0.0/16".into()],
            flannel_backend: "vxlan".into(),
        }
    }

    #[test]
    fn every_manifest_renders_without_a_variable_left() {
        for manifest in MANIFESTS {
            let text = render(manifest.name, &variables()).unwrap();
            assert!(!text.contains("%{"), "{}", manifest.name);
            assert!(text.contains("kind: "), "{}", manifest.name);
        }
        let dns = render("coredns", &variables()).unwrap();
        assert!(
            dns.contains("clusterIP: \"10.43.0.10\"\n  clusterIPs: [\"10.43.0.10\"]\n  ipFamilyPolicy: SingleStack")
        );
        assert!(dns.contains("kubernetes cluster.local in-addr.arpa ip6.arpa {"));
        assert!(dns.contains("image: skiff.local/system:v1\n"));
    }

    #[test]
    fn the_overlay_configuration_covers_both_families() {
        let mut variables = variables();
        variables.cluster_cidrs.push("fd00:42::/56".into());
        let text = render("flannel", &variables).unwrap();
        let expected = r#"{"EnableIPv4":true,"EnableIPv6":true,"Network":"10.42.0.0/16","IPv6Network":"fd00:42::/56","Backend":{"Type":"vxlan"}}"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn an_unknown_manifest_is_an_error() {
        assert_eq!(render("x", &variables()), Err(RenderError::UnknownManifest("x".into())));
    }
}
