//! The same cluster on one datastore after the other: its data are exported, the server starts on the other
//! one, and what it acknowledged there is still there after it was killed.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use skiff_tests::{Cluster, eventually, host::text};

const LIMIT: Duration = Duration::from_secs(90);
/// Database servers refuse to run as root: they run as this user and group, nobody on every system.
const NOBODY: u32 = 65534;

/// A database server in the network of the cluster's server, ended with this value.
struct Database(Child);

impl Drop for Database {
    fn drop(&mut self) {
        // The whole group: what was entered, and the server in it.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

/// Runs a script that makes and runs a server, in a folder of its own.
fn start(cluster: &Cluster, name: &str, script: &str) -> Result<Database> {
    let folder = cluster.folder.join(name);
    fs::create_dir_all(&folder)?;
    chown(&folder, Some(NOBODY), Some(NOBODY))?;
    let log = fs::File::create(folder.join("log"))?;
    let script = format!(
        "cd '{}' && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sh -ec '{script}'",
        folder.display()
    );
    let mut command = cluster.server.command("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    Ok(Database(command.spawn().with_context(|| format!("start {name}"))?))
}

fn endpoint(cluster: &mut Cluster, url: Option<&str>) {
    let arguments = &mut cluster.options.server_arguments;
    arguments.retain(|argument| !argument.starts_with("--datastore-endpoint="));
    arguments.extend(url.map(|url| format!("--datastore-endpoint={url}")));
}

fn wait_for(cluster: &Cluster, name: &str) -> Result<()> {
    let found = || cluster.kubectl().in_namespace("default").run(&["get", "configmap", name]);
    eventually(&format!("configmap {name} is served"), LIMIT, found).map(drop)
}

fn create(cluster: &Cluster, name: &str) -> Result<()> {
    let object = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n");
    cluster.kubectl().in_namespace("default").apply(&object).map(drop)
}

fn export(cluster: &Cluster, url: &str) -> Result<String> {
    let data = cluster.server.folder.join("data");
    let data = data.to_str().context("a folder without a name")?;
    // The server of a database may still be starting.
    eventually("the data are exported", LIMIT, || {
        let arguments = ["datastore", "export", "--data-dir", data, "--to", url, "--replace"];
        text("skiff datastore export", cluster.skiff(&arguments).output()?)
    })
}

fn serves_from(cluster: &mut Cluster, name: &str, url: &str) -> Result<()> {
    let (before, after) = (format!("before-{name}"), format!("on-{name}"));
    create(cluster, &before)?;
    cluster.stop_server()?;
    let outcome = (|| {
        let said = export(cluster, url)?;
        ensure!(said.contains("verified"), "{said}");
        endpoint(cluster, Some(url));
        cluster.start_server()?;
        wait_for(cluster, &before)?;
        create(cluster, &after)?;
        cluster.kill_server()?;
        cluster.start_server()?;
        wait_for(cluster, &after)?;
        let log = fs::read_to_string(cluster.server.folder.join("log"))?;
        ensure!(!log.contains("s3cret"), "the password is in the log");
        cluster.stop_server()
    })();
    // Other tests go on with the file, whatever happened; what does not run need not be stopped.
    let _ = cluster.kill_server();
    endpoint(cluster, None);
    cluster.start_server()?;
    wait_for(cluster, &before)?;
    outcome
}

pub fn a_server_runs_on_postgres(cluster: &mut Cluster) -> Result<()> {
    let bin = "/usr/lib/postgresql";
    let newest =
        fs::read_dir(bin).context("apt-get install postgresql")?.filter_map(Result::ok).map(|entry| entry.path());
    let bin = newest.map(|path| path.join("bin")).filter(|path| path.join("initdb").exists()).max();
    let bin = bin.context("apt-get install postgresql")?;
    let bin = Path::new(&bin).display();
    let script = format!(
        "rm -rf data; echo s3cret > password; {bin}/initdb --no-sync --auth=scram-sha-256 -U skiff --pwfile=password -D data; \
         exec {bin}/postgres -D data -h 127.0.0.1 -k \"\""
    );
    let _database = start(cluster, "postgres", &script)?;
    serves_from(cluster, "postgres", "postgres://skiff:s3cret@127.0.0.1/")
}

pub fn a_server_runs_on_mariadb(cluster: &mut Cluster) -> Result<()> {
    let script = "rm -rf data; mariadb-install-db --no-defaults --auth-root-authentication-method=normal --datadir=$PWD/data; \
         echo \"CREATE USER skiff IDENTIFIED BY \\\"s3cret\\\";\" > users.sql; echo \"GRANT ALL ON *.* TO skiff;\" >> users.sql; \
         exec mariadbd --no-defaults --datadir=$PWD/data --socket=$PWD/socket --bind-address=127.0.0.1 --skip-name-resolve \
         --init-file=$PWD/users.sql";
    let _database = start(cluster, "mariadb", script)?;
    serves_from(cluster, "mariadb", "mysql://skiff:s3cret@tcp(127.0.0.1:3306)/")
}

pub fn a_server_runs_on_an_etcd(cluster: &mut Cluster) -> Result<()> {
    let _database = start(cluster, "etcd", "rm -rf data; exec etcd --data-dir data")?;
    serves_from(cluster, "etcd", "http://127.0.0.1:2379")
}
