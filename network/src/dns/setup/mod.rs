//! What the directives of a Corefile mean.

mod rules;
mod sources;
mod words;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    cache::CacheConfig,
    corefile::{Corefile, CorefileError, ServerBlock, Token},
    forward::ForwardConfig,
    hosts::HostsConfig,
    kubernetes::KubernetesConfig,
    name::Name,
    rewrite::Rule,
    template::Template,
};
use rules::{rewrite, template};
use sources::{cache, forward, hosts, kubernetes};
use words::{address, bind, lameduck, zone_name};

type Result<T> = std::result::Result<T, CorefileError>;

/// Directives that only change speed, logs or protection, and are not needed for right answers.
const IGNORED: &[&str] =
    &["debug", "pprof", "nsid", "bufsize", "minimal", "any", "autopath", "trace", "cancel", "metadata", "timeouts"];

/// One server: zones on a port, and the plugins that answer.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub zones: Vec<Name>,
    pub port: u16,
    pub bind: Vec<IpAddr>,
    pub has_errors: bool,
    pub has_log: bool,
    pub has_loadbalance: bool,
    pub has_loop: bool,
    pub cache: Option<CacheConfig>,
    pub rewrites: Vec<Rule>,
    pub templates: Vec<Template>,
    pub hosts: Vec<HostsConfig>,
    pub kubernetes: Vec<KubernetesConfig>,
    pub forwards: Vec<ForwardConfig>,
}

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub servers: Vec<ServerConfig>,
    /// Listening address, and how long to go on after being told to stop.
    pub health: Vec<(SocketAddr, Duration)>,
    pub ready: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
    pub has_reload: bool,
    /// Files besides the Corefile whose change matters.
    pub files: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

/// Decides what a Corefile means; `default_port` is for zones without one.
pub fn setup(corefile: &Corefile, default_port: u16) -> Result<Config> {
    let mut config = Config { warnings: corefile.warnings.clone(), ..Config::default() };
    for block in &corefile.blocks {
        let mut ports: Vec<(u16, Vec<Name>)> = Vec::new();
        for key in &block.keys {
            let (zone, port) = server_key(key, default_port)?;
            match ports.iter_mut().find(|(known, _)| *known == port) {
                Some((_, zones)) => zones.push(zone),
                None => ports.push((port, vec![zone])),
            }
        }
        for (port, zones) in ports {
            let server = server(block, port, zones, &mut config)?;
            config.servers.push(server);
        }
    }
    Ok(config)
}

/// `example.org:1053`, `dns://.`, `10.0.0.0/8`.
fn server_key(key: &Token, default_port: u16) -> Result<(Name, u16)> {
    let text = match key.text.split_once("://") {
        Some(("dns", rest)) => rest,
        Some((scheme, _)) => return Err(key.error(format!("protocol {scheme:?} is not supported"))),
        None => &key.text,
    };
    let (zone, port) = match text.rsplit_once(':') {
        Some((zone, port)) => (zone, port.parse().map_err(|_| key.error(format!("port {port:?} is not a number")))?),
        None => (text, default_port),
    };
    Ok((zone_name(key, zone)?, port))
}

fn server(block: &ServerBlock, port: u16, own: Vec<Name>, config: &mut Config) -> Result<ServerConfig> {
    let mut server = ServerConfig {
        zones: own,
        port,
        bind: Vec::new(),
        has_errors: false,
        has_log: false,
        has_loadbalance: false,
        has_loop: false,
        cache: None,
        rewrites: Vec::new(),
        templates: Vec::new(),
        hosts: Vec::new(),
        kubernetes: Vec::new(),
        forwards: Vec::new(),
    };
    for directive in &block.directives {
        match directive.name.text.as_str() {
            "errors" => server.has_errors = true,
            "log" => server.has_log = true,
            "loadbalance" => server.has_loadbalance = true,
            "loop" => server.has_loop = true,
            "reload" => config.has_reload = true,
            "health" => add(&mut config.health, (address(directive, ":8080")?, lameduck(directive)?)),
            "ready" => add(&mut config.ready, address(directive, ":8181")?),
            "prometheus" => add(&mut config.metrics, address(directive, "localhost:9153")?),
            "bind" => server.bind.extend(bind(directive)?),
            "cache" => server.cache = Some(cache(directive, &server.zones)?),
            "rewrite" => server.rewrites.push(rewrite(directive)?),
            "template" => server.templates.push(template(directive, &server.zones)?),
            "hosts" => {
                let hosts = hosts(directive, &server.zones)?;
                config.files.extend(hosts.file.clone());
                server.hosts.push(hosts);
            }
            "kubernetes" => server.kubernetes.push(kubernetes(directive, &server.zones)?),
            "forward" => server.forwards.push(forward(directive, config)?),
            name if IGNORED.contains(&name) => {
                let Token { file, line, .. } = &directive.name;
                config.warnings.push(format!("{file}:{line}: {name} is not supported and is left out"));
            }
            name => return Err(directive.name.error(format!("unknown directive {name:?}"))),
        }
    }
    Ok(server)
}

fn add<T: PartialEq>(all: &mut Vec<T>, item: T) {
    if !all.contains(&item) {
        all.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{corefile::load, forward::Policy, kubernetes::PodMode};

    fn setup_text(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        let path = dir.path().join("Corefile");
        std::fs::write(&path, text.replace("RESOLV", dir.path().join("resolv.conf").to_str().unwrap())).unwrap();
        setup(&load(&path)?, 53)
    }

    #[test]
    fn the_bundled_corefile_is_understood() {
        let text = ".:53 {\n errors\n health\n ready\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  \
                    fallthrough in-addr.arpa ip6.arpa\n }\n hosts /etc/coredns/NodeHosts {\n  ttl 60\n  reload 15s\n  \
                    fallthrough\n }\n prometheus :9153\n cache 30\n loop\n reload\n loadbalance\n forward . RESOLV {\n  \
                    max_concurrent 1000\n  policy sequential\n }\n}\n";
        let config = setup_text(text).unwrap();
        let server = &config.servers[0];
        assert_eq!((server.port, server.zones.as_slice()), (53, [Name::root()].as_slice()));
        assert_eq!(server.kubernetes[0].pods, PodMode::Insecure);
        assert_eq!(server.kubernetes[0].fallthrough.len(), 2);
        assert_eq!(server.hosts[0].ttl, 60);
        assert_eq!(server.cache.as_ref().unwrap().success_ttl_max, 30);
        assert_eq!(server.forwards[0].servers, ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!((server.forwards[0].max_concurrent, server.forwards[0].policy), (1000, Policy::Sequential));
        assert!(server.has_loop && server.has_loadbalance && config.has_reload);
        assert_eq!(config.health[0].0.port(), 8080);
        assert_eq!(config.ready[0].port(), 8181);
        assert_eq!(config.metrics[0], "[::]:9153".parse().unwrap());
    }

    #[test]
    fn rewrites_and_templates_are_understood() {
        let text = "a.example b.example:1053 {\n rewrite name suffix .old. .new. answer auto\n \
                    rewrite stop {\n  name regex (.*)\\.x\\. {1}.y.\n  answer name (.*)\\.y\\. {1}.x.\n }\n \
                    rewrite continue type A AAAA\n rewrite ttl suffix example. 30-60\n \
                    template IN A {\n  match ^x\\.\n  answer \"{{ .Name }} 60 IN A 192.0.2.1\"\n  fallthrough\n }\n}\n";
        let config = setup_text(text).unwrap();
        assert_eq!(config.servers.iter().map(|server| server.port).collect::<Vec<_>>(), [53, 1053]);
        assert_eq!(config.servers[0].rewrites.len(), 4);
        assert!(matches!(&config.servers[0].rewrites[1], Rule::Name { answers, .. } if answers.len() == 1));
        assert!(matches!(config.servers[0].rewrites[3], Rule::Ttl { min: 30, max: 60, .. }));
        assert_eq!(config.servers[0].templates.len(), 1);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line, part) in [
            (".:53 {\n nonsense\n}\n", 2, "unknown directive \"nonsense\""),
            (".:53 {\n kubernetes {\n  pods maybe\n }\n}\n", 3, "\"maybe\" is not one of"),
            (".:53 {\n\n forward . tls://9.9.9.9\n}\n", 3, "not supported"),
            (".:x {\n}\n", 1, "port \"x\""),
            (".:53 {\n cache {\n  success many\n }\n}\n", 3, "\"many\" is not a number"),
            (".:53 {\n rewrite name regex ( x\n}\n", 2, "bad pattern"),
            (".:53 {\n hosts x {\n  reload soon\n }\n}\n", 3, "\"soon\" is not a duration"),
        ] {
            let error = setup_text(text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn networks_stand_for_reverse_zones() {
        let config = setup_text("10.42.0.0/16 {\n errors\n}\n").unwrap();
        assert_eq!(config.servers[0].zones[0].to_string(), "42.10.in-addr.arpa.");
    }
}
