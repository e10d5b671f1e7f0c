//! The store beside Debian's etcd, in one run: `cargo xtask bench store [SECONDS] [ROUNDS] [KEYS]`.
//!
//! Both servers run at once over loopback TCP without TLS, each on a folder of its own on the same
//! file system, and both sync before they acknowledge. One load generator (an example of the
//! store) drives them in turn, the order changing with every round; a server that is not driven
//! rests. CPU and bytes written are those of the server process in the measured time; a row shows the
//! median of its rounds.

mod server;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use server::{Kind, Measured, Server, Shape};

use crate::shell::{find, root, run};

/// Keys of the store that is written and read.
pub const KEYS: u64 = 100_000;
/// Keys of the store that is restarted, if not said otherwise.
const RESTART_KEYS: &str = "1000000";

/// How often it is.
const RESTARTS: usize = 3;

/// The procedures of an API server's store.
const ROWS: &[Shape] = &[
    Shape::new("create", 1, 1),
    Shape::new("create", 64, 8),
    Shape::new("create", 256, 16),
    Shape::new("create", 1000, 100),
    Shape::new("create", 64, 8).of("noise"),
    Shape::new("update", 1, 1),
    Shape::new("update", 64, 8),
    Shape::new("update", 256, 16),
    Shape::new("update", 1000, 100),
    Shape::new("update", 64, 8).of("noise"),
    Shape::new("churn", 256, 16),
    Shape::new("flood", 256, 16),
    Shape::new("get", 1, 1),
    Shape::new("get", 64, 8),
    Shape::new("get", 256, 16),
    Shape::new("list", 1, 1),
    Shape::new("list", 64, 8),
];

/// Watchers of one prefix, and writes per second below it.
const WATCHES: &[Shape] = &[
    Shape::new("watch", 1, 1).at(1000),
    Shape::new("watch", 1, 1).at(5000),
    Shape::new("watch", 100, 8).at(1000),
    Shape::new("watch", 100, 8),
];

/// Steady writes beside compaction.
const STEADY: Shape = Shape::new("update", 64, 8).at(500);
const LOADER: Shape = Shape::new("fill", 256, 16);

/// Runs every row and prints tables for docs/performance.md.
pub fn store(arguments: &[String]) -> Result<()> {
    let number = |at: usize, otherwise: &str| -> Result<u64> {
        let text = arguments.get(at).map_or(otherwise, String::as_str);
        text.parse().with_context(|| format!("{text:?} is no number; usage: bench store [SECONDS] [ROUNDS] [KEYS]"))
    };
    let (seconds, rounds, keys) = (number(0, "10")?, number(1, "3")?, number(2, RESTART_KEYS)?);
    if find("etcd").is_none() {
        bail!("etcd is missing; cargo xtask setup --tests installs it");
    }
    run(
        "cargo",
        &[
            "build",
            "--release",
            "-p",
            "skiff-kine",
            "--example",
            "serve",
            "--example",
            "store_load",
            "--example",
            "load",
        ],
    )?;
    let folder = root().join(format!("target/bench-store-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let bench = Bench { folder: &folder, seconds, rounds: rounds.max(1) };
    let result = bench.tables().and_then(|()| bench.restarts(keys));
    fs::remove_dir_all(&folder).context("clean up")?;
    result
}

struct Bench<'a> {
    folder: &'a Path,
    seconds: u64,
    rounds: u64,
}

impl Bench<'_> {
    fn start(&self, name: &str) -> Result<[Server; 2]> {
        let start = |kind, side: &str| Server::start(kind, &self.folder.join(format!("{name}-{side}")));
        Ok([start(Kind::Ours, "ours")?, start(Kind::Etcd, "etcd")?])
    }

    fn tables(&self) -> Result<()> {
        println!(
            "fdatasync of 4 KiB on this file system: {:.0}/s; {} s per row and side, {} rounds; load average {}\n",
            syncs_per_second(self.folder)?,
            self.seconds,
            self.rounds,
            fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
        );
        let servers = self.start("rows")?;
        for server in &servers {
            server.measure(LOADER, 0, Some(KEYS))?;
        }
        println!(
            "| shape | clients | ours op/s | etcd op/s | ratio | p50 ours / etcd ms | p99 ours / etcd ms | CPU ours / etcd µs/op | ratio | bytes ours / etcd per op | ratio |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        for shape in ROWS {
            let [ours, etcd] = self.compare(&servers, *shape)?;
            let name = if shape.values == "object" {
                shape.name.to_owned()
            } else {
                format!("{} ({})", shape.name, shape.values)
            };
            let bytes = if etcd.bytes > 0.0 { format!("{:.2}", ours.bytes / etcd.bytes) } else { "-".into() };
            println!(
                "| {name} | {} | {:.0} | {:.0} | **{:.2}** | {} | {} | {:.0} / {:.0} | **{:.2}** | {:.0} / {:.0} | **{bytes}** |",
                shape.clients,
                ours.rate,
                etcd.rate,
                ours.rate / etcd.rate,
                pair(ours.load.p50_us, etcd.load.p50_us),
                pair(ours.load.p99_us, etcd.load.p99_us),
                ours.cpu_us,
                etcd.cpu_us,
                ours.cpu_us / etcd.cpu_us,
                ours.bytes,
                etcd.bytes,
            );
        }
        self.in_process()?;
        self.watches(&servers)?;
        self.compaction(&servers)
    }

    /// Each side in turn, the other one first in the next round; the median of each figure.
    fn compare(&self, servers: &[Server; 2], shape: Shape) -> Result<[Measured; 2]> {
        let mut rounds: [Vec<Measured>; 2] = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                rounds[side].push(servers[side].measure(shape, self.seconds, None)?);
            }
        }
        Ok(rounds.map(|rounds| median(&rounds)))
    }

    /// What gRPC costs: the same writes by callers in the store's own process.
    fn in_process(&self) -> Result<()> {
        println!("\n| in process: update by clients | op/s | p50 ms | p99 ms | CPU µs/op, clients included |");
        println!("|---|---|---|---|---|");
        for clients in [1, 64, 256, 1000] {
            let load = server::in_process(self.folder, clients, self.seconds)?;
            let rate = load.operations as f64 / load.seconds;
            println!("| {clients} | {rate:.0} | {} | {} | {:.0} |", ms(load.p50_us), ms(load.p99_us), load.cpu_us);
        }
        Ok(())
    }

    fn watches(&self, servers: &[Server; 2]) -> Result<()> {
        println!(
            "\n| watchers | writes/s asked | writes/s ours / etcd | events/s ours / etcd | ratio | acknowledgement to event p50 ours / etcd ms | p99 | CPU ours / etcd µs/event | ratio |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for shape in WATCHES {
            let [ours, etcd] = self.compare(servers, *shape)?;
            let asked = if shape.rate == 0 { "all that go".to_owned() } else { shape.rate.to_string() };
            println!(
                "| {} | {asked} | {:.0} / {:.0} | {:.0} / {:.0} | **{:.2}** | {} | {} | {:.1} / {:.1} | **{:.2}** |",
                shape.clients,
                ours.load.writes,
                etcd.load.writes,
                ours.rate,
                etcd.rate,
                ours.rate / etcd.rate,
                pair(ours.load.p50_us, etcd.load.p50_us),
                pair(ours.load.p99_us, etcd.load.p99_us),
                ours.cpu_us,
                etcd.cpu_us,
                ours.cpu_us / etcd.cpu_us,
            );
        }
        Ok(())
    }

    /// Writes at a steady rate, without and beside the compaction of many revisions.
    fn compaction(&self, servers: &[Server; 2]) -> Result<()> {
        println!(
            "\n| compaction of {} revisions beside {} updates/s | took s | p99 without / beside ms | p99.9 without / beside ms | ratio of p99.9 |",
            2 * KEYS,
            STEADY.rate
        );
        println!("|---|---|---|---|---|");
        for (server, name) in servers.iter().zip(["ours", "etcd"]) {
            server.measure(Shape::new("garbage", 256, 16), 0, None)?;
            let before = server.measure(STEADY, self.seconds, None)?.load;
            let (beside, took) = std::thread::scope(|scope| {
                let compact = scope.spawn(|| {
                    // Behind the warm-up of the writes.
                    std::thread::sleep(Duration::from_secs(3));
                    server.measure(Shape::new("compact", 1, 1), 0, None)
                });
                let beside = server.measure(STEADY, self.seconds, None);
                (beside, compact.join())
            });
            let (beside, took) = (beside?.load, took.map_err(|_| anyhow::anyhow!("compact"))??);
            println!(
                "| {name} | {:.2} | {} | {} | **{:.2}** |",
                took.load.seconds,
                pair(before.p99_us, beside.p99_us),
                pair(before.p999_us, beside.p999_us),
                beside.p999_us as f64 / before.p999_us.max(1) as f64,
            );
        }
        Ok(())
    }

    /// SIGKILL and start again, with as many keys.
    fn restarts(&self, keys: u64) -> Result<()> {
        let mut servers = self.start("restart")?;
        println!("\n| {keys} keys of 1 KiB | restarts to first read s | median | RSS before, after MB | on disk MB |");
        println!("|---|---|---|---|---|");
        let mut before = Vec::new();
        for server in &servers {
            server.measure(LOADER, 0, Some(keys))?;
            before.push(server.resident()?);
        }
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..RESTARTS {
            for (server, took) in servers.iter_mut().zip(&mut took) {
                took.push(server.restart()?.as_secs_f64());
            }
        }
        for (((server, took), before), name) in servers.iter().zip(&mut took).zip(before).zip(["ours", "etcd"]) {
            let shown = took.iter().map(|seconds| format!("{seconds:.2}")).collect::<Vec<_>>().join(", ");
            took.sort_by(f64::total_cmp);
            let (after, stored) = (server.resident()? >> 20, server.stored()? >> 20);
            println!("| {name} | {shown} | {:.2} | {}, {after} | {stored} |", took[RESTARTS / 2], before >> 20);
        }
        Ok(())
    }
}

/// The median of each figure by itself.
fn median(rounds: &[Measured]) -> Measured {
    let by = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    let mut median = rounds[0];
    (median.rate, median.cpu_us, median.bytes) = (by(|m| m.rate), by(|m| m.cpu_us), by(|m| m.bytes));
    median.load.p50_us = by(|m| m.load.p50_us as f64) as u64;
    median.load.p99_us = by(|m| m.load.p99_us as f64) as u64;
    median.load.p999_us = by(|m| m.load.p999_us as f64) as u64;
    median.load.writes = by(|m| m.load.writes);
    median
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e3)
}

fn pair(ours: u64, etcd: u64) -> String {
    format!("{} / {}", ms(ours), ms(etcd))
}

fn syncs_per_second(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let begun = Instant::now();
    let mut syncs = 0_u64;
    while begun.elapsed() < Duration::from_secs(2) {
        file.write_all_at(&[1; 4096], (syncs % 256) * 4096)?;
        file.sync_data()?;
        syncs += 1;
    }
    fs::remove_file(path)?;
    Ok(syncs as f64 / begun.elapsed().as_secs_f64())
}
