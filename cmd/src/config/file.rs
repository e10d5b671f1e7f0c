//! `/etc/skiff/config.yaml` and its drop-ins, with K3s's rules.
//!
//! Keys are flag names. Drop-ins (`config.yaml.d/*.yaml`, `*.yml`, by name) replace
//! a key of an earlier file; `key+` adds to it instead. They count without a base
//! file too. A key that no command knows is refused with its file and line.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value as Yaml;

use crate::flags::{FLAGS, Flag, Scope, Value};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("configuration file {}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("configuration file {}, line {line}: unknown key \"{key}\"{hint}", path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, hint: String },
    #[error("configuration file {}, line {line}: \"{key}\" takes {expected}", path.display())]
    WrongType { path: PathBuf, line: usize, key: String, expected: &'static str },
}

/// The arguments that the file and its drop-ins stand for. A missing file is an
/// error only when it was named explicitly.
pub fn file_arguments(path: &Path, explicit: bool, server: bool) -> Result<Vec<String>, ConfigError> {
    let mut values: Vec<(&'static Flag, Vec<String>)> = Vec::new();
    let drop_ins = drop_ins(path)?;
    let base_needed = explicit && drop_ins.is_empty();
    for (file, needed) in
        std::iter::once((path.to_owned(), base_needed)).chain(drop_ins.into_iter().map(|file| (file, true)))
    {
        let Some(text) = read(&file, needed)? else { continue };
        for entry in parse(&file, &text)? {
            merge(&mut values, entry);
        }
    }
    let known = |flag: &Flag| match flag.scope {
        Scope::Node => true,
        Scope::Server => server,
        Scope::Agent => !server,
    };
    Ok(values
        .into_iter()
        .filter(|(flag, _)| known(flag))
        .flat_map(|(flag, values)| values.into_iter().map(move |value| format!("--{}={value}", flag.name)))
        .collect())
}

struct Entry {
    flag: &'static Flag,
    values: Vec<String>,
    append: bool,
}

fn merge(values: &mut Vec<(&'static Flag, Vec<String>)>, entry: Entry) {
    match values.iter_mut().find(|(flag, _)| flag.name == entry.flag.name) {
        Some((_, have)) if entry.append => have.extend(entry.values),
        Some((_, have)) => *have = entry.values,
        None => values.push((entry.flag, entry.values)),
    }
}

fn read(path: &Path, needed: bool) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => Ok(None),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: folder, source }),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"))
        .collect();
    files.sort();
    Ok(files)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let syntax = |message: String| ConfigError::Syntax { path: path.to_owned(), message };
    let document: Yaml = serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?;
    let Yaml::Object(map) = document else {
        return Err(syntax("must be a list of \"key: value\" lines".to_owned()));
    };
    map.iter().map(|(key, value)| entry(path, text, key, value)).collect()
}

fn entry(path: &Path, text: &str, key: &str, value: &Yaml) -> Result<Entry, ConfigError> {
    let (name, append) = match key.strip_suffix('+') {
        Some(name) => (name, true),
        None => (key, false),
    };
    let line = line_of(text, key);
    let Some(flag) = FLAGS.iter().find(|flag| flag.name == name && flag.name != "config") else {
        return Err(ConfigError::UnknownKey { path: path.to_owned(), line, key: key.to_owned(), hint: hint(name) });
    };
    let wrong = |expected| ConfigError::WrongType { path: path.to_owned(), line, key: key.to_owned(), expected };
    let values = match (flag.value, value) {
        (_, Yaml::Null) => Vec::new(),
        (Value::Switch, Yaml::Bool(on)) => vec![on.to_string()],
        (Value::Switch, Yaml::String(text)) if text == "true" || text == "false" => vec![text.clone()],
        (Value::Switch, _) => return Err(wrong("true or false")),
        (Value::Many(_), Yaml::Array(items)) => {
            items.iter().map(scalar).collect::<Option<_>>().ok_or_else(|| wrong("a list of plain values"))?
        }
        (_, value) => vec![scalar(value).ok_or_else(|| wrong("one plain value"))?],
    };
    Ok(Entry { flag, values, append })
}

fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(on) => Some(on.to_string()),
        _ => None,
    }
}

/// Top-level keys stand at the start of a line, plain or quoted.
fn line_of(text: &str, key: &str) -> usize {
    let starts = |line: &str| {
        let line = line.trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
    };
    text.lines().position(starts).map_or(1, |index| index + 1)
}

/// Names the flag that was probably meant.
fn hint(name: &str) -> String {
    let plain = |text: &str| text.replace(['-', '_'], "");
    let near = FLAGS.iter().find(|flag| {
        differ_by_at_most_two(&plain(flag.name), &plain(name))
            || (name.len() > 3 && (flag.name.starts_with(name) || name.starts_with(flag.name)))
    });
    near.map(|flag| format!("; did you mean \"{}\"?", flag.name)).unwrap_or_default()
}

/// Whether two letters added, dropped or exchanged turn one into the other;
/// short names would resemble everything and must be the same.
fn differ_by_at_most_two(a: &str, b: &str) -> bool {
    if a.len().min(b.len()) < 5 {
        return a == b;
    }
    let b: Vec<char> = b.chars().collect();
    // Edit distances of the letters of `a` so far to every beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()] <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn slips_of_the_finger_are_recognised() {
        assert!(hint("clster-cidr").contains("\"cluster-cidr\""));
        assert!(hint("tls_sans").contains("\"tls-san\""));
        assert_eq!(hint("colour"), "");
    }

    #[test]
    fn drop_ins_replace_and_plus_adds() {
        let folder = tempfile::tempdir().unwrap();
        let base = write(folder.path(), "config.yaml", "tls-san:\n- a\n- b\ncluster-domain: one\nserver: https://x\n");
        write(folder.path(), "config.yaml.d/10.yaml", "cluster-domain: two\n");
        write(folder.path(), "config.yaml.d/20.yml", "tls-san+: c\ndisable-agent: true\n");
        let arguments = file_arguments(&base, true, true).unwrap();
        assert!(arguments.contains(&"--cluster-domain=two".to_owned()));
        for name in ["a", "b", "c"] {
            assert!(arguments.contains(&format!("--tls-san={name}")), "{name} is missing");
        }
        assert!(arguments.contains(&"--disable-agent=true".to_owned()));
        assert!(!arguments.iter().any(|argument| argument.starts_with("--server")), "a server ignores agents' keys");
    }

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_the_likely_flag() {
        let folder = tempfile::tempdir().unwrap();
        let base = write(folder.path(), "config.yaml", "# mine\ncluster-domain: x\ncluster_cidr: 10.0.0.0/8\n");
        let message = file_arguments(&base, true, true).unwrap_err().to_string();
        assert!(message.contains("config.yaml, line 3: unknown key \"cluster_cidr\""), "{message}");
        assert!(message.ends_with("did you mean \"cluster-cidr\"?"), "{message}");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert!(file_arguments(Path::new("/nonexistent/config.yaml"), true, true).is_err());
        assert!(file_arguments(Path::new("/nonexistent/config.yaml"), false, true).unwrap().is_empty());
    }
}
