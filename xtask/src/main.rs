//! The project's own tools: `cargo xtask <verb>`.

mod bench;
mod bench_api;
mod bench_store;
mod conformance;
mod dist;
mod kinds;
mod setup;
mod shell;
mod test;
mod tidy;

use anyhow::{Result, bail};

const HELP: &str = "cargo xtask <verb>

  setup [--tests]   install what building and running need (as root, by apt-get), or say what is missing
  dist [--debug]    build the binary, put the payload behind it: target/dist/skiff
  test              format, tidy, clippy, all tests, and the cluster suite on the release binary
  bench [NAME]      measure the release binary: start, idle
  bench api [PART]  measure the API server: requests, list, watch, memory
  bench store [S] [ROUNDS] [KEYS]
                    measure the store beside Debian's etcd: S seconds per row, restart with KEYS keys
  conformance [--debug] [FILTER...]
                    run the conformance battery on a fresh two-node cluster: docs/conformance.md
  kinds             print the table of built-in kinds and what each lacks
  tidy              check what rustfmt and clippy cannot: crate edges, file sizes, module docs";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    match arguments.first().map(String::as_str) {
        Some("setup") => setup::setup(has("--tests")),
        Some("dist") => dist::dist(if has("--debug") { dist::Profile::Debug } else { dist::Profile::Release }),
        Some("test") => test::test(),
        Some("bench") if arguments.get(1).is_some_and(|name| name == "store") => bench_store::store(&arguments[2..]),
        Some("bench") if arguments.get(1).is_some_and(|name| name == "api") => {
            bench_api::api(arguments.get(2).map(String::as_str))
        }
        Some("kinds") => kinds::kinds(),
        Some("bench") => bench::bench(arguments.get(1).map(String::as_str)),
        Some("conformance") => {
            let words: Vec<String> = arguments[1..].iter().filter(|word| *word != "--debug").cloned().collect();
            let profile = if has("--debug") { dist::Profile::Debug } else { dist::Profile::Release };
            conformance::conformance(profile, &words)
        }
        Some("tidy") => tidy::run(),
        Some("help" | "--help" | "-h") | None => {
            println!("{HELP}");
            Ok(())
        }
        Some(other) => bail!("no verb {other:?}\n\n{HELP}"),
    }
}
