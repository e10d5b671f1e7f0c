//! Installs what is missing, or says exactly what to install.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::shell::{find, output, root, run};

/// Programs and the Debian packages that bring them.
const TO_RUN: &[(&str, &str)] = &[
    ("cc", "gcc libc6-dev"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("patchelf", "patchelf"),
];
const TO_TEST: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("etcdctl", "etcd-client"),
    ("etcd", "etcd-server"),
    ("mariadbd", "mariadb-server"),
    ("pg_ctlcluster", "postgresql"),
    ("strace", "strace"),
    ("dig", "dnsutils"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("openssl", "openssl"),
    ("python3", "python3 python3-venv"),
    ("node", "nodejs"),
    ("npm", "npm"),
];
/// Oldest kubectl that knows the API well enough (aggregated discovery, WebSocket streams).
const KUBECTL_MINOR_MIN: u32 = 30;
/// Debian release whose kubectl is new enough, used when the host's is not.
const KUBECTL_SUITE: &str = "trixie";

/// Brings the host to the point where the build works and the binary runs.
fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().flat_map(|(_, packages)| packages.split(' ')).collect();
    packages.sort_unstable();
    packages.dedup();
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let is_root = output("id", &["-u"])?.trim() == "0";
    if !is_root || find("apt-get").is_none() {
        bail!(
            "missing: {}. Install the packages {} (Debian names), then try again",
            programs.join(", "),
            packages.join(" ")
        );
    }
    println!("installing {}", packages.join(" "));
    let command =
        ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends"];
    let arguments: Vec<&str> = command[1..].iter().copied().chain(packages.iter().copied()).collect();
    run("apt-get", &["update", "-q"])?;
    run(command[0], &arguments)
}

/// Entry of the verb.
pub fn setup(tests: bool) -> Result<()> {
    install(TO_RUN)?;
    if tests {
        install(TO_TEST)?;
    }
    let kubectl = kubectl()?;
    println!("kubectl: {}", kubectl.display());
    if tests {
        println!("python client: {}", skiff_tests::packages::python()?.display());
        println!("helm: {}", skiff_tests::packages::helm()?.display());
        println!("javascript client: {}", skiff_tests::packages::javascript()?.display());
    }
    Ok(())
}

/// A kubectl that is new enough: one fetched earlier, the host's, or one
/// unpacked (not installed) from a newer Debian release.
pub fn kubectl() -> Result<PathBuf> {
    let fetched = root().join("target/tools/kubectl");
    for candidate in [Some(fetched.clone()), find("kubectl")].into_iter().flatten() {
        if minor_version(&candidate).is_some_and(|minor| minor >= KUBECTL_MINOR_MIN) && is_one_file(&candidate) {
            return Ok(candidate);
        }
    }
    fetch_kubectl(&fetched).context("no kubectl of 1.30 or newer on this host, and none could be fetched")?;
    Ok(fetched)
}

/// Some installers put a small dispatcher in place of kubectl that needs a folder of others.
fn is_one_file(path: &Path) -> bool {
    output(&path.display().to_string(), &["version", "--client"]).is_ok_and(|text| !text.contains("dispatcher"))
}

fn minor_version(kubectl: &Path) -> Option<u32> {
    let text = output(&kubectl.display().to_string(), &["version", "--client"]).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("Client Version: v"))?;
    version.split('.').nth(1)?.parse().ok()
}

fn fetch_kubectl(target: &Path) -> Result<()> {
    let archive = debian_archive().context("find the Debian archive in the configuration of apt")?;
    let work = root().join("target/tools/apt");
    fs::create_dir_all(work.join("lists/partial"))?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = work.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={keyring}] {archive} {KUBECTL_SUITE} main\n"))?;
    let options = [
        format!("-oDir::Etc::sourcelist={}", sources.display()),
        "-oDir::Etc::sourceparts=/dev/null".to_owned(),
        format!("-oDir::State::lists={}", work.join("lists").display()),
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    run("apt-get", &[&options[..], &["-q", "update"]].concat())?;
    let package = format!("kubectl/{KUBECTL_SUITE}");
    let status = std::process::Command::new("apt-get")
        .args(&options)
        .args(["-q", "download", &package])
        .current_dir(&work)
        .status()
        .context("run apt-get")?;
    if !status.success() {
        bail!("apt-get download {package} ended with {status}");
    }
    let deb = fs::read_dir(&work)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    let unpacked = work.join("kubectl");
    run("dpkg-deb", &["-x", &deb.display().to_string(), &unpacked.display().to_string()])?;
    fs::copy(unpacked.join("usr/bin/kubectl"), target).context("copy kubectl")?;
    fs::remove_dir_all(&work).context("clean up")
}

/// The archive this host installs from: first URI of its own sources.
fn debian_archive() -> Option<String> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").ok()?;
    let files = folder.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let files = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(files);
    files.filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| {
        text.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let uri = match words.as_slice() {
                ["URIs:", uri, ..] => uri,
                ["deb", rest @ ..] => rest.iter().find(|word| word.contains("://"))?,
                _ => return None,
            };
            let is_main = uri.trim_end_matches('/').ends_with("/debian");
            is_main.then(|| (*uri).to_owned())
        })
    })
}
