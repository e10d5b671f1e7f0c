//! The cluster's DNS server: understands the Corefile of the CoreDNS manifest
//! and answers, from watches on the API, what the Kubernetes DNS specification
//! asks for. It is the entrypoint `/coredns` of the system image.
//!
//! - [`corefile`] reads the file, [`setup`] decides what it means,
//!   [`chain`] is one server's plugins, [`server`] the sockets.
//! - [`index`] holds the cluster as DNS looks it up; [`kubernetes`] answers.
//! - [`message`], `wire` and [`name`] are the codec.

pub mod cache;
pub mod chain;
pub mod corefile;
pub mod forward;
pub mod hosts;
pub mod http;
pub mod index;
pub mod kubernetes;
pub mod message;
pub mod metrics;
pub mod name;
pub mod presentation;
pub mod records;
pub mod rewrite;
pub mod run;
pub mod server;
pub mod setup;
pub mod sources;
pub mod template;
pub mod watch;
mod wire;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use run::RunConfig;
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: coredns [-conf FILE] [-dns.port PORT] [-version] [-plugins]";
const PLUGINS: &str = "bind cache errors forward health hosts import kubernetes log loadbalance loop prometheus \
                       ready reload rewrite template";

/// Runs the server with CoreDNS's arguments (without the program's name) until SIGTERM.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match parse(arguments) {
        Ok(Some(config)) => config,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let token = CancellationToken::new();
            let serving = run::run(config, token.clone());
            tokio::pin!(serving);
            let outcome = tokio::select! {
                outcome = &mut serving => outcome,
                () = terminated() => {
                    token.cancel();
                    serving.await
                }
            };
            outcome.map_err(|error| error.to_string())
        }),
        Err(error) => Err(format!("start runtime: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// `None` when there was only something to print.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<RunConfig>, String> {
    let mut config = RunConfig { corefile: PathBuf::from("Corefile"), port: 53, snapshot: None };
    let mut arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let flag = argument.trim_start_matches('-');
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("-{name} needs a value"));
        match name {
            "conf" => config.corefile = value()?.into(),
            "dns.port" | "p" => {
                let text = value()?;
                config.port = text.parse().map_err(|_| format!("{text:?} is not a port"))?;
            }
            "quiet" => {}
            "version" => {
                println!("CoreDNS-compatible server of Skiff {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            "plugins" => {
                PLUGINS.split(' ').for_each(|plugin| println!("dns.{plugin}"));
                return Ok(None);
            }
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(Some(config))
}

/// The first process of a container gets no default signal handling: it must listen.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_corednss() {
        let parse = |words: &[&str]| parse(words.iter().map(OsString::from));
        let config = parse(&["-conf", "/etc/coredns/Corefile", "-dns.port=1053"]).unwrap().unwrap();
        assert_eq!((config.corefile, config.port), (PathBuf::from("/etc/coredns/Corefile"), 1053));
        assert!(parse(&["-conf"]).is_err());
        assert!(parse(&["--nonsense"]).is_err_and(|message| message.contains("--nonsense")));
        assert!(parse(&["-version"]).unwrap().is_none());
    }
}
