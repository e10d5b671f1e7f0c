//! Stock etcdctl: the same script, the same output, from a real etcd and from ours.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use skiff_kine::Revision;

use crate::grpc::{Remote, memory, real_etcd, sqlite};
use crate::target::Target;

/// Numbers that differ between any two clusters.
const PRIVATE_FIELDS: [&str; 4] = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\"", "\"Lease\""];

fn etcdctl(endpoint: &str, arguments: &[&str]) -> Command {
    // Nothing here may hang: coreutils ends what does.
    let mut command = Command::new("timeout");
    command.args(["180", "etcdctl"]);
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The load test of etcdctl: 150 writes a second for a minute, by 50 clients. How slow the slowest was, and whether etcdctl
/// itself kept up with its rate, says more of a busy host than of the store; that no write failed must hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_perf_ends_without_a_failed_write() {
    // In memory: how fast a disk syncs that others use too is not the question either.
    let ours = memory().await;
    let shown = tokio::task::block_in_place(|| run(&ours.endpoint, &["check", "perf", "--load=s"], ""));
    assert!(shown.contains("Throughput") && !shown.contains("errors"), "{shown}");
    assert!(ours.revision().await > Revision(1000), "thousands were written");
}

/// Runs one command; the answer is what a person sees, without private numbers.
pub fn run(endpoint: &str, arguments: &[&str], input: &str) -> String {
    let spawned = etcdctl(endpoint, arguments).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{error}; this test needs: apt-get install etcd-client"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = format!(
        "{}\n{}{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    plain(&text)
}

fn plain(text: &str) -> String {
    let lines = text.lines().filter(|line| !PRIVATE_FIELDS.iter().any(|field| line.contains(field)));
    // Errors begin with a structure that holds time and address.
    let lines = lines.map(|line| match line.find("Error: ") {
        Some(start) => &line[start..],
        None => line,
    });
    let lines = lines.filter(|line| !line.contains("{\"level\""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Everything a script shows, one entry per command.
fn script(endpoint: &str) -> Vec<(String, String)> {
    let commands: [(&[&str], &str); 44] = [
        (&["put", "a", "1"], ""),
        (&["put", "--prev-kv", "a", "2"], ""),
        (&["get", "a"], ""),
        (&["get", "a", "-w", "fields"], ""),
        (&["get", "--rev=2", "a"], ""),
        (&["get", "--rev=99", "a"], ""),
        (&["put", "b/1", "x"], ""),
        (&["put", "b/2", "y"], ""),
        (&["get", "--prefix", "b/"], ""),
        (&["get", "--prefix", "--keys-only", ""], ""),
        (&["get", "--prefix", "--limit=1", "-w", "fields", "b/"], ""),
        (&["get", "--from-key", "--sort-by=MODIFY", "--order=DESCEND", "a"], ""),
        (&["get", "--prefix", "--count-only", "-w", "fields", ""], ""),
        (&["get", "--print-value-only", "b/1"], ""),
        (&["txn"], "mod(\"a\") = \"3\"\n\nput a 3\nget a\n\nget b/1\n\n"),
        (&["txn"], "value(\"a\") = \"2\"\n\nput a 4\n\nget b/1\ndel b/2\n\n"),
        (&["txn"], "create(\"new\") = \"0\"\n\nput new 1\n\n\n"),
        (&["txn"], "version(\"new\") > \"0\"\n\nput new 2\nput new 3\n\n\n"),
        (&["put", "--ignore-value", "missing"], ""),
        (&["put", "--lease=77", "leased", "x"], ""),
        (&["put", "read"], "from standard input"),
        (&["get", "--hex", "read"], ""),
        (&["get", "--consistency=s", "read"], ""),
        (&["get", "a", "read"], ""),
        (&["get", "--prefix", "--sort-by=VALUE", "--order=DESCEND", ""], ""),
        (&["get", "--prefix", "--sort-by=VERSION", "--limit=2", ""], ""),
        (&["txn"], "version(\"a\") < \"9\"\n\nget --prefix b/\n\n\n"),
        (&["txn"], "mod(\"none\") = \"0\"\n\ndel --prefix b/\nput b/1 again\n\n\n"),
        (&["put", "--lease=77", "--ignore-lease", "a", "x"], ""),
        (&["del", "--prev-kv", "b/1"], ""),
        (&["del", "none"], ""),
        (&["del", "--from-key", "x"], ""),
        (&["lease", "list"], ""),
        (&["lease", "timetolive", "1234"], ""),
        (&["lease", "revoke", "1234"], ""),
        (&["compaction", "4"], ""),
        (&["compaction", "4"], ""),
        (&["get", "--rev=3", "a"], ""),
        (&["get", "--rev=4", "a"], ""),
        (&["watch", "--rev=2", "a"], ""),
        (&["alarm", "list"], ""),
        (&["user", "list"], ""),
        (&["get", "--prefix", "-w", "fields", ""], ""),
        (&["lock", "held", "echo", "inside"], ""),
    ];
    let show = |(arguments, input): (&[&str], &str)| (arguments.join(" "), run(endpoint, arguments, input));
    commands.into_iter().map(show).collect()
}

/// A live watch, and a lease from grant to revocation; ids are the only difference.
fn watch_and_lease(endpoint: &str) -> Vec<String> {
    let granted = run(endpoint, &["lease", "grant", "600"], "");
    let id = granted.split_whitespace().nth(2).expect("an id").to_owned();
    let watch = &["watch", "--prefix", "--prev-kv", "--rev=2", "w/"];
    let mut watch = etcdctl(endpoint, watch).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let lease = format!("--lease={id}");
    let mut shown = vec![
        granted,
        run(endpoint, &["put", &lease, "w/1", "one"], ""),
        run(endpoint, &["lease", "keep-alive", "--once", &id], ""),
        run(endpoint, &["lease", "list"], ""),
        run(endpoint, &["put", "w/2", "two"], ""),
        run(endpoint, &["lease", "revoke", &id], ""),
        run(endpoint, &["get", "--prefix", "w/"], ""),
    ];
    // PUT w/1, PUT w/2, DELETE w/1 with the previous pair: kind, then key and value lines.
    shown.extend(lines.map(Result::unwrap).take(11));
    // The guard around it hands a polite signal on.
    Command::new("kill").arg(watch.id().to_string()).status().unwrap();
    watch.wait().unwrap();
    shown.into_iter().map(|line| line.replace(&id, "<lease>")).collect()
}

fn both(f: impl Fn(&str) -> Vec<(String, String)> + Send + Clone + 'static, remotes: [&Remote; 2]) {
    let [etcd, ours] = remotes.map(|remote| f(&remote.endpoint));
    for (theirs, ours) in etcd.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(etcd.len(), ours.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_script_shows_the_same() {
    let (etcd, ours) = (real_etcd().await, sqlite().await);
    tokio::task::block_in_place(|| both(script, [&etcd, &ours]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_and_a_lease_show_the_same() {
    let (etcd, ours) = (real_etcd().await, sqlite().await);
    let numbered = |endpoint: &str| {
        watch_and_lease(endpoint).into_iter().enumerate().map(|(i, line)| (i.to_string(), line)).collect()
    };
    tokio::task::block_in_place(|| both(numbered, [&etcd, &ours]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_and_member_commands_work() {
    let ours = sqlite().await;
    tokio::task::block_in_place(|| {
        for arguments in [
            &["endpoint", "health"][..],
            &["endpoint", "status", "-w", "table"],
            &["endpoint", "hashkv"],
            &["member", "list"],
            &["defrag"],
        ] {
            let shown = run(&ours.endpoint, arguments, "");
            assert!(shown.starts_with("0\n"), "{arguments:?}: {shown}");
        }
    });
}
