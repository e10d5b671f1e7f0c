//! `/version`.

use serde::Serialize;

/// Minor version of the API that is served.
const MINOR: u32 = 37;

/// What the server says about itself.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    pub major: String,
    pub minor: String,
    /// The version whose behaviour is shown: always the own one.
    pub emulation_major: String,
    pub emulation_minor: String,
    /// The oldest version that a server beside this one may have: one less.
    pub min_compatibility_major: String,
    pub min_compatibility_minor: String,
    /// For example `v1.37.0+skiff1`.
    pub git_version: String,
    pub git_commit: String,
    /// `clean` or `dirty`.
    pub git_tree_state: String,
    /// RFC 3339.
    pub build_date: String,
    /// Clients only print it; it names the compiler of this program.
    pub go_version: String,
    pub compiler: String,
    /// For example `linux/amd64`.
    pub platform: String,
}

impl VersionInfo {
    /// The version as Prometheus text.
    pub fn metrics(&self) -> String {
        const NAME: &str = "kubernetes_build_info";
        format!(
            "# HELP {NAME} What is running.\n# TYPE {NAME} gauge\n{NAME}{{build_date=\"{}\",compiler=\"{}\",git_commit=\"{}\",git_tree_state=\"{}\",git_version=\"{}\",go_version=\"{}\",major=\"{}\",minor=\"{}\",platform=\"{}\"}} 1\n",
            self.build_date,
            self.compiler,
            self.git_commit,
            self.git_tree_state,
            self.git_version,
            self.go_version,
            self.major,
            self.minor,
            self.platform,
        )
    }
}

impl Default for VersionInfo {
    fn default() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        VersionInfo {
            major: "1".to_owned(),
            minor: MINOR.to_string(),
            emulation_major: "1".to_owned(),
            emulation_minor: MINOR.to_string(),
            min_compatibility_major: "1".to_owned(),
            min_compatibility_minor: (MINOR - 1).to_string(),
            git_version: format!("v1.{MINOR}.0+skiff1"),
            git_commit: String::new(),
            git_tree_state: "clean".to_owned(),
            build_date: "1970-01-01T00:00:00Z".to_owned(),
            go_version: "rust".to_owned(),
            compiler: "rustc".to_owned(),
            platform: format!("{}/{arch}", std::env::consts::OS),
        }
    }
}
