//! Query options of logs, exec, attach and port-forward, parsed and checked.

use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;

use super::backend::StreamSet;
use crate::streaming::limits::FORWARDED_PORTS_MAX;

/// The pairs of a query string, decoded, in order.
pub fn query_pairs(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn last<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
}

fn flag(pairs: &[(String, String)], name: &str) -> bool {
    // A name without value counts as set, as in upstream's query conversion.
    pairs.iter().rev().find(|(n, _)| n == name).is_some_and(|(_, v)| !matches!(v.as_str(), "false" | "0" | "False"))
}

/// Which output a log request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogStream {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Options of a log request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Number of last lines; `None` for all.
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Records before this are left out.
    pub since: Option<Timestamp>,
    pub stream: LogStream,
}

impl LogOptions {
    /// Parses the query; `now` resolves `sinceSeconds`.
    pub fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let number = |name: &str| match last(pairs, name).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(format!("{name}: must be an integer")),
        };
        let tail_lines = match number("tailLines")? {
            Some(n) if n < 0 => return Err("tailLines: must be greater than or equal to 0".into()),
            other => other.map(|n| n as u64),
        };
        let limit_bytes = match number("limitBytes")? {
            Some(n) if n < 1 => return Err("limitBytes: must be greater than 0".into()),
            other => other.map(|n| n as u64),
        };
        let since_time = match last(pairs, "sinceTime").map(str::parse::<Timestamp>) {
            None => None,
            Some(Ok(time)) => Some(time),
            Some(Err(_)) => return Err("sinceTime: must be an RFC 3339 time".into()),
        };
        let since = match (number("sinceSeconds")?, since_time) {
            (Some(_), Some(_)) => return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into()),
            (Some(n), None) if n < 1 => return Err("sinceSeconds: must be greater than 0".into()),
            (Some(n), None) => now.checked_sub(SignedDuration::from_secs(n)).ok(),
            (None, time) => time,
        };
        let stream = match last(pairs, "stream") {
            None | Some("All") => LogStream::All,
            Some("Stdout") => LogStream::Stdout,
            Some("Stderr") => LogStream::Stderr,
            Some(_) => return Err(r#"stream: supported values: "All", "Stdout", "Stderr""#.into()),
        };
        let (follow, previous) = (flag(pairs, "follow"), flag(pairs, "previous"));
        Ok(LogOptions {
            follow,
            previous,
            timestamps: flag(pairs, "timestamps"),
            tail_lines,
            limit_bytes,
            since,
            stream,
        })
    }
}

/// Options of exec and attach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub streams: StreamSet,
}

impl ExecOptions {
    /// Parses the query the API server sends: `command` repeated, `input`, `output`, `error`, `tty`.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, String> {
        let command = pairs.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
        let tty = flag(pairs, "tty");
        let streams = StreamSet {
            stdin: flag(pairs, "input"),
            stdout: flag(pairs, "output"),
            // A terminal has one output.
            stderr: flag(pairs, "error") && !tty,
            tty,
        };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".into());
        }
        Ok(ExecOptions { command, streams })
    }
}

/// The ports of a port-forward request: `port`, repeated or separated by commas.
pub fn forwarded_ports(pairs: &[(String, String)]) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in pairs.iter().filter(|(name, _)| name == "port" || name == "ports").flat_map(|(_, v)| v.split(',')) {
        match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(format!("unable to parse {text:?} as a port")),
        }
    }
    if ports.len() > FORWARDED_PORTS_MAX {
        return Err(format!("at most {FORWARDED_PORTS_MAX} ports can be forwarded at once"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(query: &str) -> Result<LogOptions, String> {
        LogOptions::parse(&query_pairs(Some(query)), "2026-01-02T00:00:10Z".parse().expect("a literal time"))
    }

    #[test]
    fn log_options_are_read() {
        let options =
            log("follow=true&tailLines=5&timestamps=1&previous=false&limitBytes=9&sinceSeconds=10").expect("valid");
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail_lines, options.limit_bytes), (Some(5), Some(9)));
        assert_eq!(options.since, "2026-01-02T00:00:00Z".parse().ok());
        assert_eq!(log("").expect("valid"), LogOptions::default());
    }

    #[test]
    fn bad_log_options_are_named() {
        for (query, name) in [
            ("tailLines=-1", "tailLines"),
            ("tailLines=x", "tailLines"),
            ("limitBytes=0", "limitBytes"),
            ("sinceSeconds=0", "sinceSeconds"),
            ("sinceTime=yesterday", "sinceTime"),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "at most one"),
            ("stream=Both", "stream"),
        ] {
            let error = log(query).expect_err(query);
            assert!(error.starts_with(name), "{query}: {error}");
        }
    }

    #[test]
    fn exec_keeps_the_order_of_arguments_and_drops_stderr_of_a_terminal() {
        let pairs = query_pairs(Some("command=sh&command=-c&command=echo+a%26b&input=1&output=1&error=1&tty=1"));
        let options = ExecOptions::parse(&pairs).expect("valid");
        assert_eq!(options.command, ["sh", "-c", "echo a&b"]);
        assert_eq!(options.streams, StreamSet { stdin: true, stdout: true, stderr: false, tty: true });
        assert!(ExecOptions::parse(&query_pairs(Some("command=ls"))).is_err());
    }

    #[test]
    fn ports_come_repeated_or_joined() {
        let ports = |query| forwarded_ports(&query_pairs(Some(query)));
        assert_eq!(ports("port=80,443&port=8080"), Ok(vec![80, 443, 8080]));
        assert!(ports("port=0").is_err() && ports("port=http").is_err());
        assert_eq!(ports(""), Ok(vec![]));
    }
}
