//! Words of a Corefile: numbers, times, addresses, zones, patterns.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use regex::Regex;

use super::Result;
use crate::dns::{
    corefile::{CorefileError, Directive, Token},
    name::Name,
};

const TTL_MAX: u32 = 3600;

/// A zone's name; a network stands for its reverse zone.
pub(super) fn zone_name(token: &Token, text: &str) -> Result<Name> {
    if let Ok(net) = text.parse::<ipnet::Ipv4Net>() {
        let octets = net.network().octets();
        let labels: Vec<String> =
            octets[..usize::from(net.prefix_len() / 8)].iter().rev().map(ToString::to_string).collect();
        let front = labels.iter().map(|label| format!("{label}.")).collect::<String>();
        return zone_name(token, &format!("{front}in-addr.arpa"));
    }
    text.parse().map_err(|error| token.error(format!("{error}")))
}

pub(super) fn zones(tokens: &[Token]) -> Result<Vec<Name>> {
    tokens.iter().map(|token| zone_name(token, &token.text)).collect()
}

pub(super) fn zones_or(tokens: &[Token], default: &[Name]) -> Result<Vec<Name>> {
    if tokens.is_empty() { Ok(default.to_vec()) } else { zones(tokens) }
}

pub(super) fn one<'a>(line: &'a [Token], what: &str) -> Result<&'a Token> {
    match line {
        [_, value] => Ok(value),
        [name, ..] => Err(name.error(format!("{} needs {what}", name.text))),
        [] => Err(CorefileError { file: String::new(), line: 0, message: "empty line".to_owned() }),
    }
}

pub(super) fn number<T: std::str::FromStr>(token: &Token) -> Result<T> {
    token.text.parse().map_err(|_| token.error(format!("{:?} is not a number in range", token.text)))
}

pub(super) fn ttl(token: &Token) -> Result<u32> {
    let ttl: u32 = number(token)?;
    if ttl > TTL_MAX { Err(token.error(format!("ttl must be at most {TTL_MAX}"))) } else { Ok(ttl) }
}

/// Go's durations: `500ms`, `30s`, `1h30m`; a bare number is seconds.
pub(super) fn duration(token: &Token) -> Result<Duration> {
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
pub(super) fn address(directive: &Directive, default: &str) -> Result<SocketAddr> {
    let text = directive.arguments.first().map_or(default, |token| token.text.as_str());
    let token = directive.arguments.first().unwrap_or(&directive.name);
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map_err(|_| token.error(format!("{text:?} is not an address with port")))
}

pub(super) fn lameduck(directive: &Directive) -> Result<Duration> {
    let mut wait = Duration::ZERO;
    for line in &directive.block {
        match line[0].text.as_str() {
            "lameduck" => wait = duration(one(line, "a duration")?)?,
            other => return Err(line[0].error(format!("unknown property {other:?} of health"))),
        }
    }
    Ok(wait)
}

pub(super) fn bind(directive: &Directive) -> Result<Vec<IpAddr>> {
    let parse =
        |token: &Token| token.text.parse().map_err(|_| token.error(format!("{:?} is not an IP address", token.text)));
    directive.arguments.iter().map(parse).collect()
}

pub(super) fn regex(token: &Token) -> Result<Regex> {
    Regex::new(&token.text).map_err(|error| token.error(format!("bad pattern: {error}")))
}
