//! Files the overlay writes on its node: the CNI configuration, which tells
//! containerd that pods can be connected, and flannel's `subnet.env`.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde_json::json;

use super::config::NetworkConfig;
use crate::cni::{PLUGIN_NAME, ipam};

/// Sorts before the files of other networks, as containerd takes the first.
pub const CNI_CONF_FILE: &str = "10-skiff.conflist";
/// Understood by containerd 1.6 to 2.x.
const CNI_VERSION: &str = "1.0.0";
/// Name of the pod network, and of the directory of its leases.
const NETWORK_NAME: &str = "cbr0";

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {path}: {source}")]
pub struct WriteError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The nftables table of the ports that pods publish.
pub fn host_port_table(suffix: &str) -> String {
    format!("skiff-hostport{suffix}")
}

/// Where the CNI plugin keeps the leases of the pod network, below its data folder.
pub fn lease_dir(cni_data_dir: &Path) -> PathBuf {
    cni_data_dir.join(NETWORK_NAME)
}

/// The CNI configuration list.
pub fn cni_conf(config: &NetworkConfig, subnets: &[IpNet], mtu: u32) -> String {
    let conf = json!({
        "cniVersion": CNI_VERSION,
        "name": NETWORK_NAME,
        "plugins": [{
            "type": PLUGIN_NAME,
            "bridge": config.bridge,
            "subnets": subnets,
            "mtu": mtu,
            "dataDir": config.cni_data_dir,
            "hairpinMode": true,
            "nft": config.nft.program(),
            "table": host_port_table(&config.table_suffix),
            "capabilities": {"portMappings": true},
        }],
    });
    format!("{conf:#}\n")
}

/// flannel's `subnet.env`.
pub fn subnet_env(networks: &[IpNet], subnets: &[IpNet], mtu: u32) -> String {
    let mut lines = String::new();
    for is_v4 in [true, false] {
        let prefix = if is_v4 { "FLANNEL_" } else { "FLANNEL_IPV6_" };
        if let Some(network) = networks.iter().find(|net| net.addr().is_ipv4() == is_v4) {
            lines.push_str(&format!("{prefix}NETWORK={network}\n"));
        }
        if let Some(subnet) = subnets.iter().find(|net| net.addr().is_ipv4() == is_v4) {
            let gateway: IpAddr = ipam::gateway(*subnet);
            lines.push_str(&format!("{prefix}SUBNET={gateway}/{}\n", subnet.prefix_len()));
        }
    }
    format!("{lines}FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n")
}

/// Writes both files, each whole or not at all, and only when their content changes.
pub fn write(config: &NetworkConfig, networks: &[IpNet], subnets: &[IpNet], mtu: u32) -> Result<(), WriteError> {
    replace(&config.subnet_file, &subnet_env(networks, subnets, mtu))?;
    replace(&config.cni_conf_dir.join(CNI_CONF_FILE), &cni_conf(config, subnets, mtu))
}

fn replace(path: &Path, content: &str) -> Result<(), WriteError> {
    if fs::read_to_string(path).is_ok_and(|have| have == content) {
        return Ok(());
    }
    let write = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        // containerd watches the directory and reads names ending in .conflist only.
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, content)?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| WriteError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::NetConf;

    #[test]
    fn subnet_env_is_flannels() {
        let nets = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        assert_eq!(
            subnet_env(&nets("10.42.0.0/16"), &nets("10.42.1.0/24"), 1450),
            "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
    }

    #[test]
    fn the_plugin_understands_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig {
            node_name: "n".into(),
            node_ips: vec![],
            interface: None,
            cluster_cidrs: vec![],
            backend: Default::default(),
            net_conf_file: None,
            cni_conf_dir: dir.path().join("net.d"),
            cni_data_dir: dir.path().join("cni"),
            subnet_file: dir.path().join("run/subnet.env"),
            bridge: "cni0".into(),
            nft: Default::default(),
            table_suffix: "-b".into(),
        };
        let subnets = ["10.42.1.0/24".parse().unwrap()];
        write(&config, &["10.42.0.0/16".parse().unwrap()], &subnets, 1350).unwrap();
        let text = fs::read_to_string(config.cni_conf_dir.join(CNI_CONF_FILE)).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        // The runtime merges name and version into the plugin's part.
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        let conf = NetConf::parse(plugin.to_string().as_bytes()).unwrap();
        conf.validate().unwrap();
        assert_eq!((conf.mtu, conf.bridge.as_str(), conf.table.as_str()), (1350, "cni0", "skiff-hostport-b"));
        assert_eq!(conf.data_dir, config.cni_data_dir);
    }
}
