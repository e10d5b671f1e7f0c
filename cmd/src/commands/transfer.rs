//! `skiff datastore export` and `import`: from one kind of datastore to another.
//!
//! Whatever the two are, a snapshot stands between them: it is taken from the one while that may be in use,
//! verified, put into the other, and compared with what is found there. The other is left alone
//! unless it is empty, or may be replaced.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use skiff_api::codec::protobuf;
use skiff_apiserver::storage;
use skiff_kine::{
    Archive, Error, Etcd, Revision, SnapshotSummary, Store, TlsFiles,
    grpc::{ClientTls, fetch_snapshot},
    is_k3s, snapshot_k3s,
};

use crate::datastore::{Engine, FORMS, make_private};

const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Spacing of lines about progress.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

const DETAILS: &str = "\
History, revisions and leases are kept, but in an etcd, which numbers revisions itself and gets the present
keys. Stop the servers of the datastore that is written to. What was written is read back and compared.

Examples:
  skiff datastore export --to postgres://skiff:secret@db.example/skiff
  skiff datastore import --from /var/lib/rancher/k3s/server/db/state.db
  skiff datastore import --from https://etcd.example:2379 --cafile ca.crt --certfile c.crt --keyfile c.key \\
      --datastore-endpoint 'mysql://skiff:secret@tcp(db.example:3306)/skiff'";

fn path(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
}

/// The flags that name the datastore when it is not the file in the data folder.
pub fn engine_arguments() -> [Arg; 4] {
    let tls = |name, help| path(name, help).requires("datastore-endpoint").help_heading("TLS");
    [
        Arg::new("datastore-endpoint")
            .long("datastore-endpoint")
            .value_name("URL")
            .env("SKIFF_DATASTORE_ENDPOINT")
            .hide_env_values(true)
            .help(format!("The datastore, if it is not the file in the data folder: {FORMS}")),
        tls("datastore-cafile", "Authority that signed the certificate of the datastore's server"),
        tls("datastore-certfile", "Certificate to show to the datastore's server"),
        tls("datastore-keyfile", "Key of that certificate"),
    ]
}

fn command(name: &'static str, about: &'static str, other: Arg, data_dir: Arg, database: Arg) -> Command {
    let tls = |name, help| path(name, help).help_heading("TLS of the other one");
    Command::new(name)
        .about(about)
        .after_help(DETAILS)
        .arg(other.value_name("URL|FILE").required(true))
        .arg(
            Arg::new("replace").long("replace").action(ArgAction::SetTrue).help(
                "Write also if the target is not empty: a file or tables are moved aside, keys of an etcd deleted",
            ),
        )
        .args([data_dir, database])
        .args(engine_arguments())
        .arg(tls("cafile", "Authority that signed the certificate of its server"))
        .arg(tls("certfile", "Certificate to show to its server"))
        .arg(tls("keyfile", "Key of that certificate"))
}

/// The grammar of `export` and `import`.
pub fn commands(data_dir: &Arg, database: &Arg) -> [Command; 2] {
    let to = Arg::new("other").long("to").help(format!("Where to: {FORMS}"));
    let from = Arg::new("other")
        .long("from")
        .help(format!("Where from: {FORMS}; or a snapshot, or the SQLite file of a K3s server"));
    [
        command("export", "Copy this datastore into another one", to, data_dir.clone(), database.clone()),
        command("import", "Copy another datastore into this one", from, data_dir.clone(), database.clone()),
    ]
}

fn tls_files(matches: &ArgMatches, prefix: &str) -> TlsFiles {
    let file = |name: &str| matches.get_one::<PathBuf>(&format!("{prefix}{name}")).cloned();
    TlsFiles { ca: file("cafile"), certificate: file("certfile"), key: file("keyfile") }
}

/// The engine named by [`engine_arguments`], if one is.
pub fn given_engine(matches: &ArgMatches) -> Result<Option<Engine>> {
    let Some(endpoint) = matches.get_one::<String>("datastore-endpoint") else { return Ok(None) };
    Engine::parse(endpoint, tls_files(matches, "datastore-")).context("--datastore-endpoint").map(Some)
}

/// Runs `export`: `own` is this datastore, `socket` where its server answers.
pub fn export(matches: &ArgMatches, own: Engine, socket: Option<&Path>) -> Result<()> {
    let to = other(matches)?;
    let to = Engine::parse(&to, tls_files(matches, "")).context("--to")?;
    copy(&Origin::Engine(own), socket, &to, matches.get_flag("replace"))
}

/// Runs `import`: `own` is this datastore.
pub fn import(matches: &ArgMatches, own: &Engine) -> Result<()> {
    let from = Origin::parse(&other(matches)?, tls_files(matches, ""))?;
    copy(&from, None, own, matches.get_flag("replace"))
}

fn other(matches: &ArgMatches) -> Result<String> {
    matches.get_one::<String>("other").cloned().context("which other datastore?")
}

/// Where data comes from.
#[derive(Debug)]
enum Origin {
    Engine(Engine),
    Snapshot(PathBuf),
    K3s(PathBuf),
}

impl Origin {
    /// An endpoint, or a file, which shows by its content what it is.
    fn parse(text: &str, tls: TlsFiles) -> Result<Origin> {
        let engine =
            if text.contains("://") { Engine::parse(text, tls).context("--from")? } else { Engine::File(text.into()) };
        let Engine::File(path) = engine else { return Ok(Origin::Engine(engine)) };
        if !path.is_file() {
            bail!("--from: there is no file {}", path.display());
        }
        let mut start = [0; SQLITE_MAGIC.len()];
        let read = fs::File::open(&path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
        if read.is_err() || start != SQLITE_MAGIC {
            return Ok(Origin::Snapshot(path));
        }
        Ok(if is_k3s(&path) { Origin::K3s(path) } else { Origin::Engine(Engine::File(path)) })
    }
}

/// Objects of K3s, which stores built-in kinds as protobuf where Skiff has JSON.
#[derive(Debug, Default, PartialEq, Eq)]
struct Objects {
    rewritten: u64,
    unreadable: u64,
}

impl Objects {
    fn rewrite(&mut self, value: Bytes) -> Bytes {
        if value.starts_with(b"k8s:enc:") {
            self.unreadable += 1;
        }
        if !protobuf::is_enveloped(&value) {
            return value;
        }
        let json = protobuf::decode_object(&value).ok().map(|object| storage::codec::encode(&object));
        match json {
            Some(json) => {
                self.rewritten += 1;
                json
            }
            None => {
                self.unreadable += 1;
                value
            }
        }
    }
}

/// A file that goes with this value.
struct Temporary(PathBuf);

impl Temporary {
    /// Beside the datastore if that is a file: there is space for it.
    fn beside(engines: &[&Engine]) -> Result<Temporary> {
        let folder = engines.iter().find_map(|engine| match engine {
            Engine::File(path) => path.parent().map(Path::to_owned),
            _ => None,
        });
        let folder = folder.unwrap_or_else(std::env::temp_dir);
        make_private(&folder)?;
        Ok(Temporary(folder.join(format!(".transfer-{}", std::process::id()))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn copy(from: &Origin, socket: Option<&Path>, to: &Engine, replace: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let between = match from {
        Origin::Engine(engine) => Temporary::beside(&[engine, to])?,
        _ => Temporary::beside(&[to])?,
    };
    let archive = match from {
        Origin::Snapshot(path) => Archive::open(path, false)?,
        Origin::K3s(path) => {
            println!("reading the K3s datastore {}", path.display());
            let scratch = between.0.parent().unwrap_or(Path::new("."));
            let mut objects = Objects::default();
            let snapshot = snapshot_k3s(path, scratch, &mut |value| objects.rewrite(value))?;
            println!("objects          {} rewritten from protobuf to JSON", objects.rewritten);
            if objects.unreadable > 0 {
                println!("                 {} left as they are: of unknown kinds, or encrypted", objects.unreadable);
            }
            snapshot.save(&between.0).with_context(|| format!("write {}", between.0.display()))?;
            Archive::open(&between.0, false)?
        }
        Origin::Engine(engine) => {
            println!("reading {engine}");
            runtime.block_on(snapshot_of(engine, socket, &between.0))?;
            Archive::open(&between.0, false)?
        }
    };
    println!("writing {to}");
    let (summary, aside) = runtime.block_on(put(Arc::new(archive), to, replace))?;
    show(&summary);
    if let Some(aside) = aside {
        println!("what was there is now {aside}");
    }
    println!("verified         what is in the target is what was read");
    Ok(())
}

pub fn show(summary: &SnapshotSummary) {
    println!("revision         {}", summary.revision);
    println!("compact revision {}", summary.compact_revision);
    println!("keys             {}", summary.keys);
    println!("records          {}", summary.records);
    println!("leases           {}", summary.leases);
    println!("bytes            {}", summary.bytes);
}

/// Takes a snapshot of a datastore into a file that must not exist. A file that is in use belongs to a
/// server, which answers on `socket`.
pub async fn snapshot_of(engine: &Engine, socket: Option<&Path>, target: &Path) -> Result<()> {
    match engine {
        Engine::Etcd(endpoints) => return Ok(endpoints.snapshot(target).await?),
        Engine::File(path) if !path.exists() => bail!("there is no datastore {}", path.display()),
        _ => {}
    }
    match Store::open(engine.store_options()?).await {
        Ok(store) => {
            let snapshot = store.snapshot().await?;
            let saved = snapshot.save(target).with_context(|| format!("write {}", target.display()));
            store.close().await?;
            saved
        }
        Err(Error::InUse { path }) => match socket {
            Some(socket) => {
                Ok(fetch_snapshot(&format!("unix://{}", socket.display()), ClientTls::default(), target).await?)
            }
            None => bail!("{} is in use; stop its server, or take a snapshot from it", path.display()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Puts a snapshot into a datastore and compares; answers what existing data is called now.
pub async fn put(archive: Arc<Archive>, to: &Engine, replace: bool) -> Result<(SnapshotSummary, Option<String>)> {
    match to {
        Engine::Memory => bail!("what is put into memory ends with this command"),
        Engine::File(path) => {
            if let Some(folder) = path.parent() {
                make_private(folder)?;
            }
            let (summary, aside) = archive.restore(path, replace)?;
            let expected = archive.hash()?;
            let store = Store::open(to.store_options()?).await?;
            let found = store.hash(Revision(0)).await;
            store.close().await?;
            let found = found?;
            if found != expected {
                bail!("{to} holds {found:?} and not {expected:?}");
            }
            Ok((summary, aside.map(|path| path.display().to_string())))
        }
        Engine::Database(database) => {
            let (summary, aside) = archive.restore_database(database, replace, report("records")).await?;
            Ok((summary, aside.map(|suffix| format!("in tables whose names end in {suffix}"))))
        }
        Engine::Etcd(endpoints) => {
            let etcd = Etcd::open(endpoints).await?;
            let summary = archive.restore_etcd(&etcd, replace, &mut report("keys")).await?;
            Ok((summary, None))
        }
    }
}

/// A line every second.
fn report(what: &'static str) -> impl FnMut(u64) + Send + 'static {
    let mut last = Instant::now();
    move |done| {
        if last.elapsed() >= PROGRESS_PAUSE {
            last = Instant::now();
            println!("  {done} {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_objects_become_json_and_everything_else_stays() {
        let object = serde_json::json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": "b"}
        });
        let mut objects = Objects::default();
        let json = objects.rewrite(protobuf::encode_object(&object).unwrap().into());
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), object);
        for other in [&b"{\"kind\":\"Custom\"}"[..], b"", b"k8s:enc:aescbc:v1:x"] {
            assert_eq!(objects.rewrite(Bytes::from_static(other)), other);
        }
        let unknown = protobuf::seal("gone.example/v1", "Gone", b"");
        assert_eq!(objects.rewrite(unknown.clone().into()), unknown);
        assert_eq!(objects, Objects { rewritten: 1, unreadable: 2 });
    }

    #[test]
    fn a_file_shows_by_its_content_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name).display().to_string()
        };
        let parse = |text: &str| Origin::parse(text, TlsFiles::default());
        assert!(matches!(parse(&file("snapshot", b"no database")).unwrap(), Origin::Snapshot(_)));
        let database = file("state.db", &[SQLITE_MAGIC, &[0; 100]].concat());
        assert!(matches!(parse(&database).unwrap(), Origin::Engine(Engine::File(_))));
        assert!(matches!(parse(&format!("sqlite://{database}")).unwrap(), Origin::Engine(Engine::File(_))));
        assert!(matches!(parse("http://127.0.0.1:1").unwrap(), Origin::Engine(Engine::Etcd(_))));
        assert!(parse("/nonexistent/file").is_err());
    }

    #[tokio::test]
    async fn a_datastore_is_copied_whole_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let engine = |name: &str| Engine::File(folder.path().join(name));
        let store = Store::open(engine("a.db").store_options().unwrap()).await.unwrap();
        store.put(skiff_kine::PutRequest::new("k", "v")).await.unwrap();
        let hash = store.hash(Revision(0)).await.unwrap();
        let taken = folder.path().join("taken");
        let refused = snapshot_of(&engine("a.db"), None, &taken).await.unwrap_err();
        assert!(refused.to_string().contains("in use"), "{refused}");
        store.close().await.unwrap();
        snapshot_of(&engine("a.db"), None, &taken).await.unwrap();
        let archive = Arc::new(Archive::open(&taken, false).unwrap());
        put(archive.clone(), &engine("b.db"), false).await.unwrap();
        assert!(put(archive.clone(), &engine("b.db"), false).await.is_err());
        assert!(put(archive.clone(), &engine("b.db"), true).await.unwrap().1.is_some());
        let copy = Store::open(engine("b.db").store_options().unwrap()).await.unwrap();
        assert_eq!(copy.hash(Revision(0)).await.unwrap(), hash);
        copy.close().await.unwrap();
        assert!(put(archive, &Engine::Memory, false).await.is_err());
    }
}
