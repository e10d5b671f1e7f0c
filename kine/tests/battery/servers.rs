//! PostgreSQL and MariaDB servers of the tests' own: in folders of their own, as a user without rights.
//!
//! One server of each kind serves all tests of the process, each in a database of its own. It ends with
//! the process, however that ends: a shell waits for the end of its standard input and cleans up.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use skiff_kine::{Database, TlsFiles};
use tempfile::TempDir;

/// Characters that matter in URLs and shells, to prove that they do not matter here.
pub const PASSWORD: &str = "p@s:s/w%rd";
const PASSWORD_IN_URL: &str = "p%40s%3As%2Fw%25rd";

/// A running server. `folder` is deleted by the shell that runs it.
pub struct Server {
    shell: Mutex<Child>,
    pub folder: PathBuf,
    pub port: u16,
    start: fn(&Path, u16) -> String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    /// Ends the server as a crash would.
    pub fn stop(&self) {
        let mut shell = self.shell.lock().unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    /// Starts it again on the same port and folder.
    pub fn restart(&self) {
        *self.shell.lock().unwrap() = spawn(&self.folder, &(self.start)(&self.folder, self.port), false);
    }
}

/// Database names are never used twice.
fn fresh() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("test_{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The endpoint of a database that does not exist yet.
pub fn postgres_url() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| postgres(true));
    postgres_url_of(server, &fresh())
}

pub fn postgres_url_of(server: &Server, database: &str) -> String {
    format!("postgres://skiff:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}", server.port)
}

/// The endpoint of a database that does not exist yet.
pub fn mariadb_url() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| mariadb(true));
    mariadb_url_of(server, &fresh())
}

pub fn mariadb_url_of(server: &Server, database: &str) -> String {
    format!("mysql://skiff:{PASSWORD}@tcp(127.0.0.1:{})/{database}", server.port)
}

pub fn database(url: &str) -> Database {
    Database::parse(url, TlsFiles::default()).unwrap().expect("an endpoint of a database")
}

/// Whom servers run as: they refuse to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    is_root.unwrap_or(false).then_some((65534, 65534))
}

/// Gives a file or folder to whom servers run as.
pub fn hand_over(path: &Path) {
    if let Some((user, group)) = unprivileged() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

fn as_unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

fn new_folder() -> PathBuf {
    let folder = TempDir::new().unwrap().keep();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    hand_over(&folder);
    folder
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs a server until the shell's input ends; then kills it, and deletes its folder if told to.
fn spawn(folder: &Path, server: &str, delete: bool) -> Child {
    let clean = if delete { format!("rm -rf '{}'", folder.display()) } else { String::new() };
    let script =
        format!("exec 3<&0; {server} </dev/null & pid=$!; cat <&3 >/dev/null; kill -9 $pid; wait $pid; {clean}");
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = as_unprivileged("sh");
    command.args(["-c", &script]).current_dir(folder).stdin(Stdio::piped());
    // Its own group, so that ^C at a terminal does not end it before the tests.
    command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn prepared(command: &mut Command, package: &str) {
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}; this test needs: apt-get install {package}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// `serving` says that the server answers; until then it is still starting.
fn started(server: Server, serving: impl Fn(&Server) -> bool) -> Server {
    let until = Instant::now() + Duration::from_secs(120);
    while !serving(&server) {
        let ended = server.shell.lock().unwrap().try_wait().unwrap();
        let log = || fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        assert!(ended.is_none() && Instant::now() < until, "{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// Folder of PostgreSQL's programs, which Debian keeps out of the way.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.unwrap_or_default()
}

fn run_postgres(folder: &Path, port: u16) -> String {
    let tls = folder.join("tls");
    let tls = match tls.exists() {
        true => format!(
            " -c ssl=on -c ssl_cert_file='{0}/server.crt' -c ssl_key_file='{0}/server.key' -c ssl_ca_file='{0}/ca.crt'",
            tls.display()
        ),
        false => String::new(),
    };
    format!(
        "'{}' -D '{}'{tls} -p {port} -h 127.0.0.1 -k '' -c fsync=off -c max_connections=200",
        postgres_programs().join("postgres").display(),
        folder.join("data").display()
    )
}

/// A PostgreSQL server with SCRAM passwords. `shared` ones are cleaned up with the process.
pub fn postgres(shared: bool) -> Server {
    postgres_with(shared, |_| {})
}

/// One that `prepare` has changed: `tls` in the folder makes it serve TLS.
pub fn postgres_with(shared: bool, prepare: impl Fn(&Path)) -> Server {
    let folder = new_folder();
    let password = folder.join("password");
    fs::write(&password, PASSWORD).unwrap();
    hand_over(&password);
    let mut init = as_unprivileged(postgres_programs().join("initdb"));
    init.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "-U", "skiff"]);
    init.arg("--pwfile").arg(&password).arg("-D").arg(folder.join("data")).current_dir(&folder);
    prepared(&mut init, "postgresql");
    prepare(&folder);
    let port = free_port();
    let shell = Mutex::new(spawn(&folder, &run_postgres(&folder, port), shared));
    let server = Server { shell, folder, port, start: run_postgres };
    started(server, |server| {
        let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        log.contains("ready to accept connections")
    })
}

fn run_mariadb(folder: &Path, port: u16) -> String {
    let tls = folder.join("tls");
    let tls = match tls.exists() {
        true => format!(
            " --ssl-cert='{0}/server.crt' --ssl-key='{0}/server.key' --ssl-ca='{0}/ca.crt' --require-secure-transport=on",
            tls.display()
        ),
        false => String::new(),
    };
    format!(
        "mariadbd --no-defaults{tls} --datadir='{}' --socket='{}' --port={port} --bind-address=127.0.0.1 \
         --init-file='{}' --innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=64M --max-connections=200 \
         --skip-name-resolve",
        folder.join("data").display(),
        folder.join("socket").display(),
        folder.join("users.sql").display()
    )
}

/// A MariaDB server with a user whose password is asked for. `shared` ones are cleaned up with the process.
pub fn mariadb(shared: bool) -> Server {
    mariadb_with(shared, |_| {})
}

/// One that `prepare` has changed: `tls` in the folder makes it demand TLS.
pub fn mariadb_with(shared: bool, prepare: impl Fn(&Path)) -> Server {
    let folder = new_folder();
    let users =
        format!("CREATE USER IF NOT EXISTS skiff@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO skiff@'%';\n");
    fs::write(folder.join("users.sql"), users).unwrap();
    let mut init = as_unprivileged("mariadb-install-db");
    init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    init.arg(format!("--datadir={}", folder.join("data").display())).current_dir(&folder);
    prepared(&mut init, "mariadb-server");
    prepare(&folder);
    let port = free_port();
    let shell = Mutex::new(spawn(&folder, &run_mariadb(&folder, port), shared));
    let server = Server { shell, folder, port, start: run_mariadb };
    started(server, |server| {
        let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        log.contains("ready for connections")
    })
}
