//! URLs, as Go's `url.ParseRequestURI` takes them.

use std::{collections::BTreeMap, sync::Arc};

use percent_encoding::percent_decode_str;

use super::opaque::Opaque;
use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::{Entries, Map, Value},
};

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "url" => |args| {
            let text = args.text(0)?;
            let url = parse(text).map_err(|why| {
                Fault::new(format!("URL parse error during conversion from string: parse {text:?}: {why}"))
            })?;
            Ok(Value::opaque(Opaque::Url(url)))
        },
        "isURL" => |args| Ok(Value::Bool(parse(args.text(0)?).is_ok())),
        "getScheme" => |args| Ok(Value::text(of(args)?.scheme.clone())),
        "getHost" => |args| Ok(Value::text(of(args)?.host.clone())),
        "getHostname" => |args| Ok(Value::text(split_host(&of(args)?.host).0.to_owned())),
        "getPort" => |args| Ok(Value::text(split_host(&of(args)?.host).1.to_owned())),
        "getEscapedPath" => |args| Ok(Value::text(of(args)?.path.clone())),
        "getQuery" => query,
        _ => return None,
    })
}

fn of<'c>(args: &'c Args<'_, '_>) -> Result<&'c Url, Fault> {
    match args.get(0)? {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Url(url) => Ok(url),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

/// Whether a text is a URL.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    parse(text).map(drop)
}

fn parse(text: &str) -> Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err("net/url: invalid control character in URL");
    }
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !rest.starts_with('/') {
        return Err("invalid URI for request");
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = after.find('/').unwrap_or(after.len());
            after.split_at(end)
        }
        _ => ("", rest),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let (_, port) = split_host(host);
    if host.contains(' ') || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("invalid character in host name");
    }
    if host.starts_with('[') && !host.contains(']') {
        return Err("missing ']' in host");
    }
    check_escapes(path)?;
    check_escapes(host)?;
    let path = percent_encode(path);
    Ok(Url { text: text.to_owned(), scheme, host: host.to_owned(), path, query: query.to_owned() })
}

fn scheme(text: &str) -> Result<(String, &str), &'static str> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((text[..at].to_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn check_escapes(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let hex = bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if !hex {
            return Err("invalid URL escape");
        }
    }
    Ok(())
}

/// Escapes what may not stand in a path as it is; escapes that are there stay.
fn percent_encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte as char),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' | b'%' | b'!'
            | b'\'' | b'(' | b')' | b'*' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn split_host(host: &str) -> (&str, &str) {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, after) = rest.split_once(']').unwrap_or((rest, ""));
        return (name, after.strip_prefix(':').unwrap_or(""));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn query<'a>(args: &Args<'_, 'a>) -> Result<Value<'a>, Fault> {
    let mut values: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in of(args)?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        values.entry(decode(name)).or_default().push(Value::text(decode(value)));
    }
    let list = values.into_iter().map(|(name, values)| (Value::text(name), Value::list(values))).collect();
    Ok(Value::Map(Map::Owned(Arc::new(Entries { list, type_name: None }))))
}
