//! Where answers come from: `cache`, `hosts`, `kubernetes`, `forward`.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use super::{
    Config, Result,
    words::{duration, number, one, ttl, zone_name, zones, zones_or},
};
use crate::dns::{
    cache::CacheConfig,
    corefile::{Directive, Token},
    forward::{ForwardConfig, Policy, nameservers},
    hosts::HostsConfig,
    kubernetes::{KubernetesConfig, PodMode},
    name::Name,
};

const KUBERNETES_TTL_DEFAULT: u32 = 5;
const HOSTS_TTL_DEFAULT: u32 = 3600;

pub(super) fn cache(directive: &Directive, own: &[Name]) -> Result<CacheConfig> {
    let mut config = CacheConfig::default();
    let mut rest = directive.arguments.as_slice();
    if let Some((first, others)) = rest.split_first().filter(|(first, _)| first.text.parse::<u32>().is_ok()) {
        let ttl: u32 = number(first)?;
        (config.success_ttl_max, config.denial_ttl_max) = (ttl, ttl);
        rest = others;
    }
    config.zones = zones_or(rest, own)?;
    for line in &directive.block {
        match line[0].text.as_str() {
            kind @ ("success" | "denial") => {
                let capacity = line.get(1).ok_or_else(|| line[0].error(format!("{kind} needs a capacity")))?;
                let length = number(capacity)?;
                let (max, min) = (line.get(2).map(number).transpose()?, line.get(3).map(number).transpose()?);
                let (length_max, ttl_max, ttl_min) = if kind == "success" {
                    (&mut config.success_len_max, &mut config.success_ttl_max, &mut config.success_ttl_min)
                } else {
                    (&mut config.denial_len_max, &mut config.denial_ttl_max, &mut config.denial_ttl_min)
                };
                *length_max = length;
                *ttl_max = max.unwrap_or(*ttl_max);
                *ttl_min = min.unwrap_or(*ttl_min);
            }
            "prefetch" | "serve_stale" | "servfail" | "disable" | "keepttl" => {}
            other => return Err(line[0].error(format!("unknown property {other:?} of cache"))),
        }
    }
    config.success_ttl_min = config.success_ttl_min.min(config.success_ttl_max);
    config.denial_ttl_min = config.denial_ttl_min.min(config.denial_ttl_max);
    Ok(config)
}

pub(super) fn hosts(directive: &Directive, own: &[Name]) -> Result<HostsConfig> {
    let (file, rest) = match directive.arguments.split_first() {
        Some((file, rest)) => (PathBuf::from(&file.text), rest),
        None => (PathBuf::from("/etc/hosts"), directive.arguments.as_slice()),
    };
    let mut config = HostsConfig {
        file: Some(file),
        inline: Vec::new(),
        zones: zones_or(rest, own)?,
        ttl: HOSTS_TTL_DEFAULT,
        has_reverse: true,
        fallthrough: Vec::new(),
    };
    for line in &directive.block {
        match line[0].text.as_str() {
            "ttl" => config.ttl = number(one(line, "a number of seconds")?)?,
            "no_reverse" => config.has_reverse = false,
            // The file is watched instead of read again and again.
            "reload" => drop(duration(one(line, "a duration")?)?),
            "fallthrough" => config.fallthrough = zones_or(&line[1..], &[Name::root()])?,
            text if text.parse::<IpAddr>().is_ok() => {
                config.inline.push(line.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" "));
            }
            other => return Err(line[0].error(format!("unknown property {other:?} of hosts"))),
        }
    }
    Ok(config)
}

pub(super) fn kubernetes(directive: &Directive, own: &[Name]) -> Result<KubernetesConfig> {
    let mut config = KubernetesConfig {
        zones: zones_or(&directive.arguments, own)?,
        pods: PodMode::Disabled,
        ttl: KUBERNETES_TTL_DEFAULT,
        fallthrough: Vec::new(),
        endpoint_pod_names: false,
        namespaces: Vec::new(),
        labels: None,
        kubeconfig: None,
    };
    for line in &directive.block {
        match line[0].text.as_str() {
            "pods" => {
                let mode = one(line, "one of disabled, insecure, verified")?;
                config.pods = match mode.text.as_str() {
                    "disabled" => PodMode::Disabled,
                    "insecure" => PodMode::Insecure,
                    "verified" => PodMode::Verified,
                    other => return Err(mode.error(format!("{other:?} is not one of disabled, insecure, verified"))),
                };
            }
            "ttl" => config.ttl = ttl(one(line, "a number of seconds")?)?,
            "fallthrough" => config.fallthrough = zones_or(&line[1..], &[Name::root()])?,
            "endpoint_pod_names" => config.endpoint_pod_names = true,
            "namespaces" => config.namespaces = line[1..].iter().map(|token| token.text.clone()).collect(),
            "labels" => {
                let words: Vec<&str> = line[1..].iter().map(|token| token.text.as_str()).collect();
                config.labels = Some(words.join(" "));
            }
            "kubeconfig" => {
                let file = line.get(1).ok_or_else(|| line[0].error("kubeconfig needs a file"))?;
                config.kubeconfig = Some((file.text.clone(), line.get(2).map(|token| token.text.clone())));
            }
            // Settings of how the API is reached or how empty services are treated, right as they are.
            "endpoint"
            | "tls"
            | "noendpoints"
            | "ignore"
            | "upstream"
            | "transfer"
            | "startup_timeout"
            | "apiserver_qps"
            | "apiserver_burst"
            | "apiserver_max_inflight" => {}
            other => return Err(line[0].error(format!("unknown property {other:?} of kubernetes"))),
        }
    }
    Ok(config)
}

pub(super) fn forward(directive: &Directive, config: &mut Config) -> Result<ForwardConfig> {
    let Some((zone, targets)) = directive.arguments.split_first().filter(|(_, targets)| !targets.is_empty()) else {
        return Err(directive.name.error("forward needs a zone and at least one server"));
    };
    let mut forward = ForwardConfig { zone: zone_name(zone, &zone.text)?, ..ForwardConfig::default() };
    for target in targets {
        forward.servers.extend(upstream(target, config)?);
    }
    if forward.servers.is_empty() {
        let Token { file, line, .. } = &directive.name;
        config.warnings.push(format!("{file}:{line}: no server to forward to: other names will fail"));
    }
    for line in &directive.block {
        match line[0].text.as_str() {
            "except" => forward.except = zones(&line[1..])?,
            "policy" => {
                let policy = one(line, "one of random, round_robin, sequential")?;
                forward.policy = match policy.text.as_str() {
                    "random" => Policy::Random,
                    "round_robin" => Policy::RoundRobin,
                    "sequential" => Policy::Sequential,
                    other => {
                        return Err(policy.error(format!("policy {other:?} is not random, round_robin, sequential")));
                    }
                };
            }
            "force_tcp" => forward.force_tcp = true,
            "max_concurrent" => forward.max_concurrent = number(one(line, "a number")?)?,
            "max_fails" => forward.max_fails = number(one(line, "a number")?)?,
            "prefer_udp"
            | "expire"
            | "max_idle_conns"
            | "health_check"
            | "next"
            | "failfast_all_unhealthy_upstreams"
            | "failover" => {}
            "tls" | "tls_servername" => return Err(line[0].error("forwarding over TLS is not supported")),
            other => return Err(line[0].error(format!("unknown property {other:?} of forward"))),
        }
    }
    Ok(forward)
}

/// Servers: an address, an address with port, or the nameservers of a file.
fn upstream(target: &Token, config: &mut Config) -> Result<Vec<SocketAddr>> {
    let text = target.text.strip_prefix("dns://").unwrap_or(&target.text);
    if text.contains("://") {
        return Err(target.error(format!("forwarding to {text:?} is not supported")));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(vec![(ip, 53).into()]);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let path = PathBuf::from(text);
    if text.starts_with('/') {
        config.files.push(path.clone());
        let content = std::fs::read_to_string(&path)
            .map_err(|error| target.error(format!("read resolver configuration {text}: {error}")))?;
        return Ok(nameservers(&content));
    }
    let found =
        (text, 53).to_socket_addrs().map_err(|error| target.error(format!("{text:?} is no server: {error}")))?;
    Ok(found.collect())
}
