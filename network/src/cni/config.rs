//! What the runtime tells the plugin, and how the plugin complains.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Name of the program and the `type` of the configuration.
pub const PLUGIN_NAME: &str = "skiff-cni";

/// The `type` (and program name) of the plugin that brings loopback up.
pub const LOOPBACK_NAME: &str = "loopback";

/// Versions of the specification this plugin speaks.
pub const SUPPORTED_VERSIONS: &[&str] = &["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Error codes of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfiguration = 7,
    TryAgainLater = 11,
    /// Plugin-specific codes start at 100: the kernel refused a change.
    Kernel = 100,
    /// No address is left in the node's subnet.
    Exhausted = 101,
    /// CHECK found the pod's network not as ADD left it.
    Drift = 102,
}

/// A failure, printed as a CNI error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    pub code: ErrorCode,
    pub message: String,
    pub details: String,
}

impl CniError {
    pub fn new(code: ErrorCode, message: impl Into<String>, details: impl fmt::Display) -> CniError {
        CniError { code, message: message.into(), details: details.to_string() }
    }

    /// A change the kernel refused.
    pub fn kernel(error: impl fmt::Display) -> CniError {
        CniError::new(ErrorCode::Kernel, "configure pod network", error)
    }

    pub fn to_json(&self, version: &str) -> String {
        json!({
            "cniVersion": version, "code": self.code as u32, "msg": self.message, "details": self.details,
        })
        .to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.details)
    }
}

/// The CNI environment variables.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub command: String,
    pub container_id: String,
    pub netns: String,
    pub interface: String,
}

impl Environment {
    pub fn from_process() -> Environment {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Environment {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            interface: variable("CNI_IFNAME"),
        }
    }

    /// Container and interface, which every command on a pod needs.
    pub fn validate(&self) -> Result<(), CniError> {
        let invalid = |name: &str, value: &str| {
            CniError::new(
                ErrorCode::InvalidEnvironment,
                format!("{name} is missing or malformed"),
                format!("{value:?}"),
            )
        };
        let is_word = |text: &str, extra: &[u8]| {
            text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
        };
        if !is_word(&self.container_id, b"_.-") {
            return Err(invalid("CNI_CONTAINERID", &self.container_id));
        }
        if !is_word(&self.interface, b"_.-@") || self.interface.len() > skiff_host::link::LINK_NAME_LEN_MAX {
            return Err(invalid("CNI_IFNAME", &self.interface));
        }
        Ok(())
    }

    /// The namespace path, which ADD and CHECK need.
    pub fn required_netns(&self) -> Result<&str, CniError> {
        if self.netns.is_empty() {
            return Err(CniError::new(ErrorCode::InvalidEnvironment, "CNI_NETNS is missing", "no network namespace"));
        }
        Ok(&self.netns)
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    // containerd writes the names of its Go fields, which Go reads in any case.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    #[serde(default = "default_protocol", alias = "Protocol")]
    pub protocol: String,
    /// Unspecified or absent: all addresses of the host.
    #[serde(
        default,
        rename = "hostIP",
        alias = "HostIP",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub host_ip: Option<IpAddr>,
}

/// What the runtime adds for one pod. Read only by ADD, so that nothing strange
/// in it can keep a pod from being taken down.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    port_mappings: Value,
}

/// The network configuration, as the network component writes it and the runtime passes it on.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    #[serde(default = "default_version")]
    pub cni_version: String,
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "type")]
    pub plugin_type: String,
    #[serde(default = "default_bridge")]
    pub bridge: String,
    /// The node's pod subnets, at most one per family; the first address of each is the gateway.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Where leases are kept.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default = "default_true")]
    pub hairpin_mode: bool,
    /// The `nft` program, for published ports.
    #[serde(default = "default_nft")]
    pub nft: PathBuf,
    /// The nftables table of published ports.
    #[serde(default = "default_table")]
    pub table: String,
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// Attachments the runtime still knows (GC, since 1.1.0).
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// One attachment the runtime considers alive.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

impl NetConf {
    pub fn parse(input: &[u8]) -> Result<NetConf, CniError> {
        let conf: NetConf = serde_json::from_slice(input)
            .map_err(|error| CniError::new(ErrorCode::Decode, "decode network configuration", error))?;
        if !SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()) {
            let details = format!("{:?} is none of {}", conf.cni_version, SUPPORTED_VERSIONS.join(", "));
            return Err(CniError::new(ErrorCode::IncompatibleVersion, "incompatible CNI version", details));
        }
        Ok(conf)
    }

    /// The ports to publish.
    pub fn port_mappings(&self) -> Result<Vec<PortMapping>, CniError> {
        let mappings = Option::<Vec<PortMapping>>::deserialize(&self.runtime_config.port_mappings)
            .map_err(|error| CniError::new(ErrorCode::Decode, "decode runtimeConfig.portMappings", error))?;
        Ok(mappings.unwrap_or_default().into_iter().filter(|mapping| mapping.host_port != 0).collect())
    }

    /// Checks what ADD needs.
    pub fn validate(&self) -> Result<(), CniError> {
        let invalid = |details: String| {
            Err(CniError::new(ErrorCode::InvalidConfiguration, "invalid network configuration", details))
        };
        if self.name.is_empty() || self.name.contains(['/', '\0']) || self.name.starts_with('.') {
            return invalid(format!("name {:?} is not a file name", self.name));
        }
        if self.bridge.is_empty() || self.bridge.len() > skiff_host::link::LINK_NAME_LEN_MAX {
            return invalid(format!("bridge {:?} is not a link name", self.bridge));
        }
        let families = |is_v4: bool| self.subnets.iter().filter(|net| net.addr().is_ipv4() == is_v4).count();
        if self.subnets.is_empty() || families(true) > 1 || families(false) > 1 {
            return invalid(format!("subnets {:?}: one per address family is needed", self.subnets));
        }
        if let Some(net) = self.subnets.iter().find(|net| net.max_prefix_len() - net.prefix_len() < 2) {
            return invalid(format!("subnet {net} is too small"));
        }
        Ok(())
    }
}

/// The version an error should be reported in, even when the rest does not decode.
pub fn version_of(input: &[u8]) -> &'static str {
    let value: Value = serde_json::from_slice(input).unwrap_or_default();
    let version = value["cniVersion"].as_str().unwrap_or_default();
    SUPPORTED_VERSIONS.iter().find(|known| **known == version).copied().unwrap_or("1.0.0")
}

fn default_version() -> String {
    "0.3.1".to_owned()
}

fn default_bridge() -> String {
    "cni0".to_owned()
}

fn default_mtu() -> u32 {
    1450
}

fn default_data_dir() -> PathBuf {
    "/var/lib/skiff/agent/cni".into()
}

fn default_true() -> bool {
    true
}

fn default_nft() -> PathBuf {
    "nft".into()
}

fn default_table() -> String {
    "skiff-hostport".to_owned()
}

fn default_protocol() -> String {
    "tcp".to_owned()
}

/// Runtimes send an empty text for "no address".
fn empty_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text.parse().map_err(serde::de::Error::custom)?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_refused_by_its_code() {
        let error = NetConf::parse(br#"{"cniVersion":"0.1.0","name":"n","type":"skiff-cni"}"#).unwrap_err();
        assert_eq!(error.code, ErrorCode::IncompatibleVersion);
        assert_eq!(NetConf::parse(b"{").unwrap_err().code, ErrorCode::Decode);
        let json: Value = serde_json::from_str(&error.to_json("1.0.0")).unwrap();
        assert_eq!(json["code"], 1);
    }

    #[test]
    fn port_mappings_accept_what_containerd_sends() {
        let conf = NetConf::parse(
            br#"{"cniVersion":"1.0.0","name":"n","type":"skiff-cni","subnets":["10.42.0.0/24"],
                "runtimeConfig":{"portMappings":[
                  {"HostPort":80,"ContainerPort":8080,"Protocol":"TCP","HostIP":""},
                  {"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},
                  {"HostPort":54,"ContainerPort":5454,"Protocol":"tcp","HostIP":"192.0.2.2"}]}}"#,
        )
        .unwrap();
        conf.validate().unwrap();
        let mappings = conf.port_mappings().unwrap();
        assert_eq!(mappings[0].host_ip, None);
        assert_eq!(mappings[1].host_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((mappings[2].host_port, mappings[2].container_port), (54, 5454));
        assert_eq!(mappings[2].host_ip, Some("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn bad_configurations_and_environments_are_named() {
        let conf = |subnets: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"x","subnets":{subnets}}}"#);
            NetConf::parse(text.as_bytes()).unwrap().validate().unwrap_err().details
        };
        assert!(conf("[]").contains("one per address family"));
        assert!(conf(r#"["10.0.0.0/24","10.1.0.0/24"]"#).contains("one per address family"));
        assert!(conf(r#"["10.0.0.0/31"]"#).contains("too small"));
        let mut environment = Environment { container_id: "a".into(), interface: "eth0".into(), ..Default::default() };
        environment.validate().unwrap();
        environment.container_id = "../x".into();
        assert_eq!(environment.validate().unwrap_err().code, ErrorCode::InvalidEnvironment);
    }
}
