//! What the directives of a Corefile mean.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use regex::Regex;

use super::{
    cache::CacheConfig,
    corefile::{Corefile, CorefileError, Directive, ServerBlock, Token},
    forward::{ForwardConfig, Policy, nameservers},
    hosts::HostsConfig,
    kubernetes::{KubernetesConfig, PodMode},
    message::{CLASS_ANY, CLASS_CHAOS, CLASS_IN, Rcode},
    name::Name,
    presentation::type_number,
    rewrite::{AnswerRule, Matcher, Rule},
    template::{Pattern, Template},
};

type Result<T> = std::result::Result<T, CorefileError>;

const KUBERNETES_TTL_DEFAULT: u32 = 5;
const HOSTS_TTL_DEFAULT: u32 = 3600;
const TTL_MAX: u32 = 3600;

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

/// A zone's name; a network stands for its reverse zone.
fn zone_name(token: &Token, text: &str) -> Result<Name> {
    if let Ok(net) = text.parse::<ipnet::Ipv4Net>() {
        let octets = net.network().octets();
        let labels: Vec<String> =
            octets[..usize::from(net.prefix_len() / 8)].iter().rev().map(ToString::to_string).collect();
        let front = labels.iter().map(|label| format!("{label}.")).collect::<String>();
        return zone_name(token, &format!("{front}in-addr.arpa"));
    }
    text.parse().map_err(|error| token.error(format!("{error}")))
}

fn zones(tokens: &[Token]) -> Result<Vec<Name>> {
    tokens.iter().map(|token| zone_name(token, &token.text)).collect()
}

fn zones_or(tokens: &[Token], default: &[Name]) -> Result<Vec<Name>> {
    if tokens.is_empty() { Ok(default.to_vec()) } else { zones(tokens) }
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

fn one<'a>(line: &'a [Token], what: &str) -> Result<&'a Token> {
    match line {
        [_, value] => Ok(value),
        [name, ..] => Err(name.error(format!("{} needs {what}", name.text))),
        [] => Err(CorefileError { file: String::new(), line: 0, message: "empty line".to_owned() }),
    }
}

fn number<T: std::str::FromStr>(token: &Token) -> Result<T> {
    token.text.parse().map_err(|_| token.error(format!("{:?} is not a number in range", token.text)))
}

fn ttl(token: &Token) -> Result<u32> {
    let ttl: u32 = number(token)?;
    if ttl > TTL_MAX { Err(token.error(format!("ttl must be at most {TTL_MAX}"))) } else { Ok(ttl) }
}

/// Go's durations: `500ms`, `30s`, `1h30m`; a bare number is seconds.
fn duration(token: &Token) -> Result<Duration> {
    let bad = || token.error(format!("{:?} is not a duration", token.text));
    let (mut total, mut rest) = (Duration::ZERO, token.text.as_str());
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let count: u32 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        total += count
            * match &rest[..letters] {
                "ms" => Duration::from_millis(1),
                "s" | "" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return Err(bad()),
            };
        rest = &rest[letters..];
    }
    Ok(total)
}

/// A listening address; `:8080` means all addresses.
fn address(directive: &Directive, default: &str) -> Result<SocketAddr> {
    let text = directive.arguments.first().map_or(default, |token| token.text.as_str());
    let token = directive.arguments.first().unwrap_or(&directive.name);
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map_err(|_| token.error(format!("{text:?} is not an address with port")))
}

fn lameduck(directive: &Directive) -> Result<Duration> {
    let mut wait = Duration::ZERO;
    for line in &directive.block {
        match line[0].text.as_str() {
            "lameduck" => wait = duration(one(line, "a duration")?)?,
            other => return Err(line[0].error(format!("unknown property {other:?} of health"))),
        }
    }
    Ok(wait)
}

fn bind(directive: &Directive) -> Result<Vec<IpAddr>> {
    let parse =
        |token: &Token| token.text.parse().map_err(|_| token.error(format!("{:?} is not an IP address", token.text)));
    directive.arguments.iter().map(parse).collect()
}

fn cache(directive: &Directive, own: &[Name]) -> Result<CacheConfig> {
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

fn hosts(directive: &Directive, own: &[Name]) -> Result<HostsConfig> {
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

fn kubernetes(directive: &Directive, own: &[Name]) -> Result<KubernetesConfig> {
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

fn forward(directive: &Directive, config: &mut Config) -> Result<ForwardConfig> {
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

fn regex(token: &Token) -> Result<Regex> {
    Regex::new(&token.text).map_err(|error| token.error(format!("bad pattern: {error}")))
}

fn rewrite(directive: &Directive) -> Result<Rule> {
    // Options may stand on the line or in the block.
    let mut words: Vec<Token> = directive.arguments.clone();
    words.extend(directive.block.iter().flatten().cloned());
    let goes_on = words.first().is_some_and(|word| word.text == "continue");
    if words.first().is_some_and(|word| ["continue", "stop"].contains(&word.text.as_str())) {
        words.remove(0);
    }
    let missing = || directive.name.error("rewrite needs a field and what to change");
    let (field, rest) = words.split_first().ok_or_else(missing)?;
    match (field.text.as_str(), rest) {
        ("name", _) => rewrite_name(directive, rest, goes_on),
        ("type", [from, to]) => {
            let kind = |token: &Token| {
                type_number(&token.text).ok_or_else(|| token.error(format!("{:?} is no record type", token.text)))
            };
            Ok(Rule::Type { from: kind(from)?, to: kind(to)?, goes_on })
        }
        ("ttl", [.., bounds]) => {
            let (matcher, _) = matcher(&directive.name, &rest[..rest.len() - 1], false)?;
            let (min, max) = bounds.text.split_once('-').unwrap_or((&bounds.text, &bounds.text));
            let bound = |text: &str, open: u32| {
                if text.is_empty() { Ok(open) } else { text.parse().map_err(|_| bounds.error("ttl is not a number")) }
            };
            let (min, max) = (bound(min, 0)?, bound(max, u32::MAX)?);
            if min > max { Err(bounds.error("ttl bounds are reversed")) } else { Ok(Rule::Ttl { matcher, min, max }) }
        }
        (other, _) => Err(field.error(format!("rewrite of {other:?} is not supported or not complete"))),
    }
}

fn rewrite_name(directive: &Directive, words: &[Token], goes_on: bool) -> Result<Rule> {
    let split = words.iter().position(|word| word.text == "answer").unwrap_or(words.len());
    let (own, options) = words.split_at(split);
    let (matcher, replacement) = matcher(&directive.name, own, true)?;
    let mut answers = Vec::new();
    let mut rest = options;
    while let Some((_, after)) = rest.split_first() {
        rest = match after {
            // Names asked instead are always changed back.
            [auto, after @ ..] if auto.text == "auto" => after,
            [kind, from, to, after @ ..] if ["name", "value"].contains(&kind.text.as_str()) => {
                answers.push(AnswerRule {
                    pattern: regex(from)?,
                    replacement: to.text.clone(),
                    is_value: kind.text == "value",
                });
                after
            }
            [from, to, after @ ..] => {
                answers.push(AnswerRule { pattern: regex(from)?, replacement: to.text.clone(), is_value: false });
                after
            }
            _ => return Err(directive.name.error("answer needs a pattern and a replacement")),
        };
    }
    Ok(Rule::Name { matcher, replacement, answers, goes_on })
}

/// `[exact|prefix|suffix|substring|regex] PATTERN [REPLACEMENT]`.
fn matcher(at: &Token, words: &[Token], has_replacement: bool) -> Result<(Matcher, String)> {
    const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];
    let expected = if has_replacement { 2 } else { 1 };
    let (kind, words) = match words.split_first() {
        Some((kind, rest)) if KINDS.contains(&kind.text.as_str()) && words.len() > expected => {
            (kind.text.as_str(), rest)
        }
        _ => ("exact", words),
    };
    if words.len() != expected {
        return Err(at.error("rewrite needs a pattern and a replacement"));
    }
    let pattern = &words[0];
    let lower = pattern.text.to_ascii_lowercase();
    let matcher = match kind {
        "prefix" => Matcher::Prefix(lower),
        "suffix" => Matcher::Suffix(lower),
        "substring" => Matcher::Substring(lower),
        "regex" => Matcher::Regex(regex(pattern)?),
        _ => Matcher::Exact(zone_name(pattern, &pattern.text)?),
    };
    Ok((matcher, words.get(1).map(|token| token.text.clone()).unwrap_or_default()))
}

fn template(directive: &Directive, own: &[Name]) -> Result<Template> {
    let [class, kind, rest @ ..] = directive.arguments.as_slice() else {
        return Err(directive.name.error("template needs a class and a type"));
    };
    let mut template = Template {
        class: match class.text.to_ascii_uppercase().as_str() {
            "IN" => CLASS_IN,
            "ANY" => CLASS_ANY,
            "CH" | "CHAOS" => CLASS_CHAOS,
            other => return Err(class.error(format!("{other:?} is no class"))),
        },
        record_type: type_number(&kind.text).ok_or_else(|| kind.error(format!("{:?} is no record type", kind.text)))?,
        zones: zones_or(rest, own)?,
        matches: Vec::new(),
        answers: Vec::new(),
        additional: Vec::new(),
        authority: Vec::new(),
        rcode: Rcode::NO_ERROR,
        fallthrough: Vec::new(),
    };
    for line in &directive.block {
        let patterns = || -> Result<Vec<Pattern>> {
            line[1..].iter().map(|token| Pattern::parse(&token.text).map_err(|error| token.error(error))).collect()
        };
        match line[0].text.as_str() {
            "match" => template.matches.extend(line[1..].iter().map(regex).collect::<Result<Vec<_>>>()?),
            "answer" => template.answers.extend(patterns()?),
            "additional" => template.additional.extend(patterns()?),
            "authority" => template.authority.extend(patterns()?),
            "rcode" => {
                let code = one(line, "a response code")?;
                let known = Rcode::NAMES.iter().find(|(_, name)| code.text.eq_ignore_ascii_case(name));
                template.rcode = known.ok_or_else(|| code.error(format!("{:?} is no response code", code.text)))?.0;
            }
            "fallthrough" => template.fallthrough = zones_or(&line[1..], &[Name::root()])?,
            "upstream" | "ederror" => {}
            other => return Err(line[0].error(format!("unknown property {other:?} of template"))),
        }
    }
    if template.matches.is_empty() {
        template.matches.push(Regex::new(".*").map_err(|error| directive.name.error(error.to_string()))?);
    }
    Ok(template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::corefile::load;

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
