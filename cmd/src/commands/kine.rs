//! `skiff kine`: the datastore alone, in place of an etcd.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use skiff_kine::{
    Store, StoreOptions, TlsFiles,
    grpc::{Listener, TlsOptions},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    datastore::{Engine, FORMS},
    flags::Settings,
    logging,
    progress::Progress,
    supervision::stop_signal,
};

const ABOUT: &str = "Run the datastore alone, in place of an etcd";
const DETAILS: &str = "\
Serves the etcd v3 API over a SQLite file, PostgreSQL or MySQL. Stock etcd clients work on it: etcdctl,
kube-apiserver --etcd-servers, and everything else that speaks to etcd 3.4 or 3.5.

Examples:
  skiff kine
  skiff kine --listen unix:///run/kine.sock --data-dir /srv/kine
  skiff kine --listen https://0.0.0.0:2379 --cert-file s.crt --key-file s.key --trusted-ca-file ca.crt
  ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379 endpoint status";

/// The verb's own grammar; `common` are the flags about logging.
pub fn command(common: impl IntoIterator<Item = Arg>) -> Command {
    fn one(name: &'static str, value: &'static str, help: impl Into<String>) -> Arg {
        Arg::new(name).long(name).value_name(value).help(help.into())
    }
    let file =
        |name, help: &'static str| one(name, "FILE", help).value_parser(value_parser!(PathBuf)).help_heading("TLS");
    Command::new("kine")
        .about(ABOUT)
        .after_help(DETAILS)
        .arg(
            one(
                "listen",
                "URL",
                "Where to serve: unix:///PATH, http://ADDRESS:PORT or https://ADDRESS:PORT; may be repeated",
            )
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(Address::from_str)
            .default_value("http://127.0.0.1:2379"),
        )
        .arg(
            one("data-dir", "DIR", "Folder of the datastore file, state.db; made if missing")
                .short('d')
                .value_parser(value_parser!(PathBuf))
                .default_value("/var/lib/skiff/kine"),
        )
        .arg(
            one("datastore-endpoint", "URL", format!("Another engine or file, in place of --data-dir: {FORMS}"))
                .conflicts_with("data-dir"),
        )
        .arg(file("datastore-cafile", "Authority that signed the certificate of that database server"))
        .arg(file("datastore-certfile", "Certificate to show to that database server"))
        .arg(file("datastore-keyfile", "Key of that certificate"))
        .arg(
            one(
                "quota-backend-bytes",
                "BYTES",
                "Refuse to grow beyond this, with the NOSPACE alarm; 0 leaves it to the disk",
            )
            .value_parser(value_parser!(u64))
            .default_value(skiff_kine::limits::QUOTA_BYTES_DEFAULT.to_string()),
        )
        .arg(
            one(
                "auto-compaction-retention",
                "TIME",
                "Keep this much history, such as 5m or 1h; 0 leaves compaction to clients",
            )
            .value_parser(retention)
            .default_value("0"),
        )
        .arg(file("cert-file", "Certificate of the server, for https"))
        .arg(file("key-file", "Key of that certificate"))
        .arg(file("trusted-ca-file", "Clients must show a certificate signed by this authority"))
        .args(common)
}

pub fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let settings = Settings::from_matches(matches);
    logging::start(&settings)?;
    let progress = Progress::new(logging::is_json(&settings));
    let addresses: Vec<Address> = matches.get_many("listen").into_iter().flatten().cloned().collect();
    let tls = tls(matches, &addresses)?;
    let options = options(matches)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(options, addresses, tls, progress));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

/// Binds everything before anything is served, so that a mistake shows at once.
async fn serve(
    options: StoreOptions,
    addresses: Vec<Address>,
    tls: Option<TlsOptions>,
    progress: Progress,
) -> Result<()> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(match address {
            Address::Unix(path) => Listener::unix(&path)?,
            Address::Http(address) => Listener::tcp(address, None).await?,
            Address::Https(address) => Listener::tcp(address, tls.clone()).await?,
        });
    }
    let store = Store::open(options).await?;
    let token = CancellationToken::new();
    let mut servers = JoinSet::new();
    for listener in listeners {
        progress.line(&format!("etcd API on {}", listener.url()));
        servers.spawn(listener.serve(store.clone(), token.clone()));
    }
    let ended = tokio::select! {
        signal = stop_signal() => {
            progress.line(&format!("{} received, stopping", signal?));
            Ok(())
        }
        Some(served) = servers.join_next() => served.context("serve the etcd API").and_then(|result| Ok(result?)),
    };
    token.cancel();
    while let Some(served) = servers.join_next().await {
        served.context("serve the etcd API")??;
    }
    store.close().await?;
    ended
}

/// Where to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Http(SocketAddr),
    Https(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let tcp = |rest: &str| {
            let rest = rest.trim_end_matches('/').replace("localhost:", "127.0.0.1:");
            rest.parse().map_err(|_| format!("{rest:?} is not an address with a port, such as 127.0.0.1:2379"))
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(("unix", _)) => Err("a unix socket needs an absolute path: unix:///run/kine.sock".into()),
            Some(("http", rest)) => tcp(rest).map(Address::Http),
            Some(("https", rest)) => tcp(rest).map(Address::Https),
            _ => Err("it must begin with unix://, http:// or https://".into()),
        }
    }
}

/// As etcd: a plain number means hours.
fn retention(text: &str) -> Result<Option<Duration>, String> {
    if let Ok(hours) = text.parse::<u32>() {
        return Ok((hours > 0).then(|| Duration::from_secs(u64::from(hours) * 3600)));
    }
    let span: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}; give a time such as 5m or 1h"))?;
    let retention = Duration::try_from(span).map_err(|_| "it cannot be negative".to_owned())?;
    if retention < Duration::from_secs(1) {
        return Err("less than a second of history is of no use".into());
    }
    Ok(Some(retention))
}

fn options(matches: &ArgMatches) -> Result<StoreOptions> {
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let engine = match matches.get_one::<String>("datastore-endpoint") {
        Some(endpoint) => {
            let tls = TlsFiles {
                ca: file("datastore-cafile"),
                certificate: file("datastore-certfile"),
                key: file("datastore-keyfile"),
            };
            Engine::parse(endpoint, tls).context("--datastore-endpoint")?
        }
        None => Engine::File(file("data-dir").context("--data-dir is missing")?.join("state.db")),
    };
    let mut options = engine.store_options()?;
    options.retention = matches.get_one::<Option<Duration>>("auto-compaction-retention").copied().flatten();
    options.quota = matches.get_one("quota-backend-bytes").copied().filter(|bytes| *bytes > 0);
    Ok(options)
}

/// TLS must be complete, and used: a certificate nobody would see is a mistake.
fn tls(matches: &ArgMatches, addresses: &[Address]) -> Result<Option<TlsOptions>> {
    let path = |name: &str| matches.get_one::<PathBuf>(name);
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let secure = addresses.iter().any(|address| matches!(address, Address::Https(_)));
    match (path("cert-file"), path("key-file"), path("trusted-ca-file")) {
        (None, None, None) if !secure => Ok(None),
        (None, None, None) => bail!("--listen https:// needs --cert-file and --key-file"),
        (Some(certificate), Some(key), ca) if secure => Ok(Some(TlsOptions {
            certificate: read(certificate)?,
            key: read(key)?,
            client_ca: ca.map(read).transpose()?,
        })),
        (Some(_), Some(_), _) => bail!("--cert-file and --key-file are given, but no --listen https:// uses them"),
        _ => bail!("--cert-file and --key-file belong together, and --trusted-ca-file needs both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(arguments: &[&str]) -> ArgMatches {
        command([]).try_get_matches_from(arguments).unwrap()
    }

    #[test]
    fn addresses_are_sockets_or_tcp_with_a_port() {
        assert_eq!("unix:///run/k.sock".parse(), Ok(Address::Unix("/run/k.sock".into())));
        assert_eq!("http://localhost:2379".parse(), Ok(Address::Http(([127, 0, 0, 1], 2379).into())));
        assert_eq!("https://[::1]:1/".parse(), Ok(Address::Https("[::1]:1".parse().unwrap())));
        for wrong in ["unix://run/k.sock", "http://127.0.0.1", "127.0.0.1:2379", "ftp://127.0.0.1:1", ""] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn retention_is_a_time_or_hours() {
        assert_eq!(retention("0"), Ok(None));
        assert_eq!(retention("2"), Ok(Some(Duration::from_secs(7200))));
        assert_eq!(retention("5m"), Ok(Some(Duration::from_secs(300))));
        assert!(retention("-1m").is_err() && retention("1ms").is_err() && retention("soon").is_err());
    }

    #[test]
    fn half_of_tls_is_a_mistake() {
        let https = [Address::Https(([127, 0, 0, 1], 1).into())];
        let http = [Address::Http(([127, 0, 0, 1], 1).into())];
        assert!(tls(&matched(&["kine"]), &http).unwrap().is_none());
        assert!(tls(&matched(&["kine"]), &https).is_err());
        assert!(tls(&matched(&["kine", "--cert-file", "a"]), &https).is_err());
        assert!(tls(&matched(&["kine", "--trusted-ca-file", "a"]), &http).is_err());
        assert!(tls(&matched(&["kine", "--cert-file", "a", "--key-file", "b"]), &http).is_err());
    }
}
