//! Gathers the descriptions of API fields from the sources of the `k8s-openapi`
//! dependency, for OpenAPI documents.
//!
//! Its doc comments are upstream's descriptions. They are read where cargo has
//! put the dependency, so no text lies in this repository; a unit test fails
//! when none was found.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::GzEncoder};

const RELEASE: &str = "v1_37";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut text = String::new();
    match sources() {
        Some(folder) => gather(&folder.join("src").join(RELEASE), &mut text)?,
        None => {
            println!("cargo::warning=sources of k8s-openapi not found: OpenAPI documents will have no descriptions")
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("descriptions.gz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes())?;
    fs::write(out, encoder.finish()?)
}

/// The folder of the dependency, as cargo names it.
fn sources() -> Option<PathBuf> {
    let output = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--format-version", "1", "--frozen", "--filter-platform"])
        .arg(env::var_os("TARGET")?)
        .arg("--manifest-path")
        .arg(Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    // One field of a large document: a search does what a parser would.
    text.split("\"manifest_path\":\"").skip(1).find_map(|rest| {
        let manifest = Path::new(rest.split('"').next()?);
        let folder = manifest.parent()?;
        folder.file_name()?.to_str()?.starts_with("k8s-openapi").then(|| folder.to_owned())
    })
}

fn gather(folder: &Path, text: &mut String) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            gather(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            describe(&fs::read_to_string(&path)?, text);
        }
    }
    Ok(())
}

/// Adds the structure of one source file.
fn describe(source: &str, text: &mut String) {
    let marker = "// Generated from definition ";
    let Some(component) = source.lines().find_map(|line| line.strip_prefix(marker)) else { return };
    let names = json_names(source);
    let mut comment = String::new();
    let mut inside = false;
    for line in source.lines() {
        let trimmed = line.trim_start();
        if let Some(rest) = trimmed.strip_prefix("///") {
            if !comment.is_empty() {
                comment.push('\u{b}');
            }
            comment.push_str(&plain(rest.strip_prefix(' ').unwrap_or(rest)));
        } else if inside && line == "}" {
            return;
        } else if trimmed.starts_with("pub struct ") {
            inside = true;
            text.push_str(&format!("={component}\t{}\n", std::mem::take(&mut comment)));
            if trimmed.ends_with(';') || trimmed.ends_with("{}") {
                return;
            }
        } else if let Some(rest) = trimmed.strip_prefix("pub ").filter(|_| inside) {
            let field = rest.split(':').next().unwrap_or_default().trim_start_matches("r#");
            let name = names.iter().find(|(key, _)| key == field).map_or(field, |(_, name)| name);
            if !comment.is_empty() {
                text.push_str(&format!("{name}\t{comment}\n"));
            }
            comment.clear();
        } else if !trimmed.starts_with("#[") {
            comment.clear();
        }
    }
}

/// Field names of Rust and of JSON, from the decoder: `"clusterIP" => Field::Key_cluster_ip,`.
fn json_names(source: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (json, key) = line.trim().split_once(" => Field::Key_")?;
        Some((key.trim_end_matches(',').to_owned(), json.trim_matches('"').to_owned()))
    };
    source.lines().filter_map(pair).collect()
}

/// A doc comment without the backslashes that keep markdown from reading it.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars().peekable();
    while let Some(next) = rest.next() {
        if next != '\\' || !rest.peek().is_some_and(char::is_ascii_punctuation) {
            out.push(if next == '\t' { ' ' } else { next });
        }
    }
    out
}
