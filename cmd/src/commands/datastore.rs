//! `skiff datastore snapshot …`: takes, lists, verifies and restores snapshots of every kind of datastore.
//!
//! A snapshot is a file in etcd's own format, so it goes to etcd and comes from there too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use skiff_kine::{
    Archive,
    grpc::{ClientTls, fetch_snapshot},
};

use super::transfer::{self, engine_arguments, given_engine, put, show, snapshot_of};
use crate::{
    config::DEFAULT_DATA_DIR,
    datastore::Engine,
    snapshots::{self, Found, unix_seconds},
};

/// Names of snapshots taken by hand begin with this.
const PREFIX: &str = "on-demand";

const DETAILS: &str = "\
Snapshots are files in etcd's format with a SHA-256: etcdctl snapshot status and
restore take them, and snapshots of an etcd can be restored here.

Examples:
  skiff datastore snapshot save
  skiff datastore snapshot save --endpoint http://10.0.0.5:2379 --name before-upgrade
  skiff datastore snapshot verify on-demand-n1-1790000000.db
  skiff datastore snapshot restore ./from-etcd.db --replace";

fn path_argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).help(help)
}

/// The verb's own grammar.
pub fn command() -> Command {
    let data_dir =
        path_argument("data-dir", "Folder of all state of the server").short('d').default_value(DEFAULT_DATA_DIR);
    let folder = path_argument("snapshot-dir", "Folder of snapshots (default: DATA-DIR/server/db/snapshots)");
    let database = path_argument("db", "The datastore file (default: DATA-DIR/server/db/state.db)");
    let which = || {
        Arg::new("snapshot")
            .required(true)
            .value_name("NAME|FILE")
            .value_parser(value_parser!(PathBuf))
            .help("A name that list shows, or a file")
    };
    let skip_hash = Arg::new("skip-hash-check")
        .long("skip-hash-check")
        .action(ArgAction::SetTrue)
        .help("Take a file without checksum, such as a copy of etcd's member/snap/db");
    let tls = |name, help| path_argument(name, help).requires("endpoint").help_heading("TLS");
    let snapshot = Command::new("snapshot")
        .about("Take, list, verify and restore snapshots")
        .after_help(DETAILS)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("save")
                .about("Take a snapshot, also while the server is running")
                .args([&data_dir, &folder, &database])
                .args(engine_arguments())
                .arg(Arg::new("name").long("name").value_name("NAME").help("Name of the snapshot (default: on-demand-HOST-TIME)"))
                .arg(
                    Arg::new("retain")
                        .long("retain")
                        .value_name("COUNT")
                        .value_parser(value_parser!(u32).range(1..))
                        .help("Afterwards delete all but the newest COUNT snapshots named on-demand-…"),
                )
                .arg(Arg::new("endpoint").long("endpoint").value_name("URL").conflicts_with("db").help(
                    "Server to take it from: unix:///PATH, http://… or https://… (default: this host's, or its file if that is not running)",
                ))
                .arg(tls("cacert", "Authority that signed the server's certificate"))
                .arg(tls("cert", "Certificate to show to the server"))
                .arg(tls("key", "Key of that certificate")),
        )
        .subcommand(Command::new("list").about("List snapshots, newest first").args([&data_dir, &folder]))
        .subcommand(
            Command::new("verify")
                .about("Read a snapshot, compare its checksum and say what it holds")
                .args([&data_dir, &folder])
                .arg(which())
                .arg(&skip_hash),
        )
        .subcommand(
            Command::new("restore")
                .about("Make a datastore from a snapshot; the server must be stopped")
                .args([&data_dir, &folder, &database])
                .args(engine_arguments())
                .arg(which())
                .arg(&skip_hash)
                .arg(
                    Arg::new("replace")
                        .long("replace")
                        .action(ArgAction::SetTrue)
                        .help("Move an existing datastore aside, under a name with replaced and the time; delete the keys of an etcd"),
                ),
        );
    Command::new("datastore")
        .about("Look after the datastore")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(snapshot)
        .subcommands(transfer::commands(&data_dir, &database))
}

pub fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let matches = match matches.subcommand() {
        Some(("snapshot", matches)) => matches,
        Some(("export", matches)) => {
            let socket = own_socket(matches)?;
            transfer::export(matches, own_engine(matches)?, socket.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(("import", matches)) => {
            transfer::import(matches, &own_engine(matches)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => bail!("which command? snapshot, export or import"),
    };
    match matches.subcommand() {
        Some(("save", matches)) => save(matches)?,
        Some(("list", matches)) => list(&snapshot_dir(matches)?)?,
        Some(("verify", matches)) => {
            let archive = Archive::open(&found(matches)?, matches.get_flag("skip-hash-check"))?;
            show(&archive.verify()?);
        }
        Some(("restore", matches)) => restore(matches)?,
        _ => bail!("which command? save, list, verify or restore"),
    }
    Ok(ExitCode::SUCCESS)
}

fn save(matches: &ArgMatches) -> Result<()> {
    let folder = snapshot_dir(matches)?;
    snapshots::make_folder(&folder)?;
    let name = match matches.get_one::<String>("name") {
        Some(name) if name.is_empty() || name.contains('/') || name.starts_with('.') => {
            bail!("--name {name:?}: a name is no path and does not begin with a dot")
        }
        Some(name) => name.clone(),
        None => format!("{PREFIX}-{}-{}.db", host_name(), unix_seconds(SystemTime::now())),
    };
    let path = folder.join(name);
    if path.exists() {
        bail!("{} exists; choose another --name", path.display());
    }
    // Under its name only once it is whole and verified.
    let unready = snapshots::unready(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Err(error) = runtime.block_on(take(matches, &unready)) {
        let _ = fs::remove_file(&unready);
        return Err(error);
    }
    let summary = snapshots::finish(&unready, &path)?;
    println!("{}", path.display());
    show(&summary);
    if let Some(retain) = matches.get_one::<u32>("retain") {
        for name in snapshots::prune(&folder, PREFIX, *retain as usize)? {
            println!("deleted {name}");
        }
    }
    Ok(())
}

/// From the server if one answers, else from its file.
async fn take(matches: &ArgMatches, target: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Option<String>> {
        let Some(path) = matches.get_one::<PathBuf>(name) else { return Ok(None) };
        fs::read_to_string(path).map(Some).with_context(|| format!("read {}", path.display()))
    };
    if let Some(endpoint) = matches.get_one::<String>("endpoint") {
        let identity = match (read("cert")?, read("key")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("--cert and --key belong together"),
        };
        let ca = read("cacert")?;
        if endpoint.starts_with("https://") && ca.is_none() {
            bail!("{endpoint} needs --cacert");
        }
        return Ok(fetch_snapshot(endpoint, ClientTls { ca, identity }, target).await?);
    }
    let socket = own_socket(matches)?;
    snapshot_of(&own_engine(matches)?, socket.as_deref(), target).await
}

/// The datastore that is meant: the one given, or else the file in the data folder.
fn own_engine(matches: &ArgMatches) -> Result<Engine> {
    match given_engine(matches)? {
        Some(engine) => Ok(engine),
        None => Ok(Engine::File(database(matches)?)),
    }
}

/// Where the server of that file answers, if it is the one in the data folder.
fn own_socket(matches: &ArgMatches) -> Result<Option<PathBuf>> {
    match matches.get_one::<PathBuf>("db") {
        Some(_) => Ok(None),
        None => Ok(Some(data_dir(matches)?.join("server/kine.sock"))),
    }
}

fn restore(matches: &ArgMatches) -> Result<()> {
    let archive = Archive::open(&found(matches)?, matches.get_flag("skip-hash-check"))?;
    let target = own_engine(matches)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (summary, aside) = runtime.block_on(put(Arc::new(archive), &target, matches.get_flag("replace")))?;
    println!("restored {target}");
    show(&summary);
    if let Some(aside) = aside {
        println!("the previous datastore is now {aside}");
    }
    Ok(())
}

fn list(folder: &Path) -> Result<()> {
    let found = snapshots::list(folder)?;
    let width = found.iter().map(|snapshot| snapshot.name.len()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:>12}  CREATED", "NAME", "BYTES");
    for Found { name, bytes, modified } in found {
        let created = jiff::Timestamp::try_from(modified).map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        println!("{name:width$}  {bytes:>12}  {}", created.unwrap_or_default());
    }
    Ok(())
}

fn data_dir(matches: &ArgMatches) -> Result<&PathBuf> {
    matches.get_one::<PathBuf>("data-dir").context("--data-dir is missing")
}

fn snapshot_dir(matches: &ArgMatches) -> Result<PathBuf> {
    match matches.get_one::<PathBuf>("snapshot-dir") {
        Some(folder) => Ok(folder.clone()),
        None => Ok(data_dir(matches)?.join("server/db/snapshots")),
    }
}

fn database(matches: &ArgMatches) -> Result<PathBuf> {
    match matches.get_one::<PathBuf>("db") {
        Some(path) => Ok(path.clone()),
        None => Ok(data_dir(matches)?.join("server/db/state.db")),
    }
}

/// A file, or else a name in the folder of snapshots.
fn found(matches: &ArgMatches) -> Result<PathBuf> {
    let given = matches.get_one::<PathBuf>("snapshot").context("which snapshot?")?;
    let named = snapshot_dir(matches)?.join(given);
    let bare = given.components().count() == 1;
    Ok(if bare && named.is_file() && !given.is_file() { named } else { given.clone() })
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_for_among_the_snapshots() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_str().unwrap();
        let snapshots = folder.path().join("server/db/snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        fs::write(snapshots.join("one.db"), "").unwrap();
        let path = |given: &str| {
            let arguments = ["datastore", "snapshot", "verify", "--data-dir", data_dir, given];
            let matches = command().try_get_matches_from(arguments).unwrap();
            let (_, matches) = matches.subcommand().unwrap();
            found(matches.subcommand().unwrap().1).unwrap()
        };
        assert_eq!(path("one.db"), snapshots.join("one.db"));
        assert_eq!(path("two.db"), PathBuf::from("two.db"));
        assert_eq!(path("./one.db"), PathBuf::from("./one.db"));
    }
}
