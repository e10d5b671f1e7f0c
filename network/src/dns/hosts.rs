//! The `hosts` plugin: names from a hosts file and from lines in the Corefile.
//!
//! The file is read when the configuration is, and again whenever the watcher
//! of the configuration sees it change; a missing file is an empty one.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    kubernetes::reverse_address,
    message::{Answer, Query, Rcode, Record, RecordData, record_type},
    name::Name,
};

/// Settings of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsConfig {
    pub file: Option<PathBuf>,
    /// Lines of the Corefile: an address, then names.
    pub inline: Vec<String>,
    pub zones: Vec<Name>,
    pub ttl: u32,
    pub has_reverse: bool,
    pub fallthrough: Vec<Name>,
}

/// The plugin with its names.
#[derive(Debug)]
pub struct Hosts {
    config: HostsConfig,
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
}

impl Hosts {
    /// Reads the file; returns a warning if that was not possible.
    pub fn load(config: HostsConfig) -> (Hosts, Option<String>) {
        let mut warning = None;
        let text = config.file.as_deref().map(read).transpose().unwrap_or_else(|message| {
            warning = Some(message);
            None
        });
        let mut hosts = Hosts { config, addresses: HashMap::new(), names: HashMap::new() };
        for line in text.unwrap_or_default().lines() {
            hosts.add(line);
        }
        for line in hosts.config.inline.clone() {
            hosts.add(&line);
        }
        (hosts, warning)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok()) else {
            return;
        };
        for name in words.filter_map(|word| word.parse::<Name>().ok()) {
            let addresses = self.addresses.entry(name.clone()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            let names = self.names.entry(address).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }

    /// The answer, or `None` when another plugin should be asked.
    pub fn answer(&self, query: &Query) -> Option<Answer> {
        if !self.config.zones.iter().any(|zone| query.name.is_within(zone)) {
            return None;
        }
        let answers = self.records(query);
        if !answers.is_empty() {
            return Some(Answer { is_authoritative: true, answers, ..Answer::default() });
        }
        if self.config.fallthrough.iter().any(|zone| query.name.is_within(zone)) {
            return None;
        }
        // A hosts file has no SOA, so "no such name" cannot be said properly.
        let is_known = self.addresses.contains_key(&query.name);
        let rcode = if is_known { Rcode::NO_ERROR } else { Rcode::SERVER_FAILURE };
        Some(Answer { is_authoritative: is_known, ..Answer::code(rcode) })
    }

    fn records(&self, query: &Query) -> Vec<Record> {
        let record = |data| Record::new(query.name.clone(), self.config.ttl, data);
        if query.record_type == record_type::PTR && self.config.has_reverse {
            let names = reverse_address(&query.name).and_then(|address| self.names.get(&address));
            return names.into_iter().flatten().map(|name| record(RecordData::Ptr(name.clone()))).collect();
        }
        let data = |address: &IpAddr| match (*address, query.record_type) {
            (IpAddr::V4(address), record_type::A) => Some(record(RecordData::A(address))),
            (IpAddr::V6(address), record_type::AAAA) => Some(record(RecordData::Aaaa(address))),
            _ => None,
        };
        self.addresses.get(&query.name).into_iter().flatten().filter_map(data).collect()
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("read hosts file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_file_and_lines_and_lead_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("NodeHosts");
        fs::write(&file, "192.0.2.1 n1 n1.example # first\nbad line\nfd00::1 n1\n").unwrap();
        let config = HostsConfig {
            file: Some(file),
            inline: vec!["192.0.2.9 gate".into()],
            zones: vec![Name::root()],
            ttl: 60,
            has_reverse: true,
            fallthrough: vec![Name::root()],
        };
        let (hosts, warning) = Hosts::load(config.clone());
        assert_eq!(warning, None);
        let ask = |hosts: &Hosts, name: &str, kind: u16| {
            hosts.answer(&Query::new(1, name.parse().unwrap(), kind, true)).map(|answer| answer.answers.len())
        };
        assert_eq!(ask(&hosts, "N1", record_type::A), Some(1));
        assert_eq!(ask(&hosts, "n1", record_type::AAAA), Some(1));
        assert_eq!(ask(&hosts, "gate", record_type::A), Some(1));
        assert_eq!(ask(&hosts, "1.2.0.192.in-addr.arpa", record_type::PTR), Some(2));
        assert_eq!(ask(&hosts, "other", record_type::A), None);
        let (_, warning) = Hosts::load(HostsConfig { file: Some("/nonexistent/hosts".into()), ..config });
        assert!(warning.unwrap().contains("/nonexistent/hosts"));
    }
}
