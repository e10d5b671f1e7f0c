//! All fragments, and how a change of some becomes one transaction.
//!
//! Invariant: after [`Table::commit`] the kernel holds exactly the frame and
//! the fragments here. Elements that two services claim go to the first of them
//! by name, and to the other when the first lets go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use ipnet::IpNet;
use skiff_api::ObjectKey;

use super::{
    fragment::{ElementKey, Fragment},
    frame,
};

/// The table as the kernel has it.
#[derive(Default)]
pub struct Table {
    name: String,
    cluster_cidrs: Vec<IpNet>,
    localhost: bool,
    fragments: BTreeMap<ObjectKey, Fragment>,
    /// Who claims an element, and with which value.
    elements: HashMap<ElementKey, BTreeMap<ObjectKey, Option<String>>>,
}

/// A change, ready to be carried out and then committed.
pub struct Change {
    /// The transaction; empty when nothing is different.
    pub script: String,
    fragments: BTreeMap<ObjectKey, Option<Fragment>>,
}

impl Table {
    /// An empty table; `localhost` makes node ports answer on 127.0.0.0/8 too.
    pub fn new(suffix: &str, cluster_cidrs: &[IpNet], localhost: bool) -> Table {
        let cluster_cidrs = cluster_cidrs.to_vec();
        Table { name: frame::table_name(suffix), cluster_cidrs, localhost, ..Table::default() }
    }

    pub fn fragment(&self, key: &ObjectKey) -> Option<&Fragment> {
        self.fragments.get(key)
    }

    /// Services in the table.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.fragments.keys()
    }

    /// The whole table as one transaction, whatever the kernel has now.
    pub fn full_script(&self) -> String {
        let mut script = frame::script(&self.name, &self.cluster_cidrs, self.localhost);
        let (mut sets, mut chains, mut rules) = (String::new(), String::new(), String::new());
        for fragment in self.fragments.values() {
            self.add_names(fragment, &mut sets, &mut chains);
            fragment.chains.iter().for_each(|(chain, body)| self.add_rules(chain, body, &mut rules));
        }
        script.push_str(&sets);
        script.push_str(&chains);
        script.push_str(&rules);
        let mut elements: Vec<_> = self.elements.iter().collect();
        elements.sort_by_key(|(key, _)| *key);
        for (key, owners) in elements {
            if let Some(value) = owners.values().next() {
                self.add_element(key, value, &mut script);
            }
        }
        script
    }

    /// Plans new states of services; `None` removes one. Proportional to what is given.
    pub fn replace(&self, fragments: BTreeMap<ObjectKey, Option<Fragment>>) -> Change {
        let fragments: BTreeMap<_, _> =
            fragments.into_iter().filter(|(key, new)| self.fragments.get(key) != new.as_ref()).collect();
        let (mut additions, mut rules, mut removals) = (String::new(), String::new(), String::new());
        let empty = Fragment::default();
        for (key, new) in &fragments {
            let (old, new) = (self.fragments.get(key).unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
            self.plan_names(old, new, &mut additions, &mut rules, &mut removals);
        }
        let (mut deleted, mut added) = (String::new(), String::new());
        self.plan_elements(&fragments, &mut deleted, &mut added);
        // Names first, then rules that use them; elements let go of chains before these are removed.
        let script = format!("{additions}{deleted}{rules}{added}{removals}");
        Change { script, fragments }
    }

    /// Records that the kernel has taken a change.
    pub fn commit(&mut self, change: Change) {
        for (key, new) in change.fragments {
            if let Some(old) = self.fragments.remove(&key) {
                for element in old.elements.keys() {
                    if let Some(owners) = self.elements.get_mut(element) {
                        owners.remove(&key);
                        if owners.is_empty() {
                            self.elements.remove(element);
                        }
                    }
                }
            }
            if let Some(new) = new {
                for (element, value) in &new.elements {
                    self.elements.entry(element.clone()).or_default().insert(key.clone(), value.clone());
                }
                self.fragments.insert(key, new);
            }
        }
    }

    fn plan_names(
        &self,
        old: &Fragment,
        new: &Fragment,
        additions: &mut String,
        rules: &mut String,
        removals: &mut String,
    ) {
        let table = &self.name;
        let fresh = Fragment {
            chains: new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)).map(owned).collect(),
            // A set whose declaration changes is made anew; its rules change with the others.
            sets: new.sets.iter().filter(|(name, text)| old.sets.get(*name) != Some(text)).map(owned).collect(),
            ..Fragment::default()
        };
        let are_sets_redeclared = fresh.sets.keys().any(|name| old.sets.contains_key(name));
        let mut flushed = BTreeSet::new();
        for (chain, body) in &old.chains {
            if are_sets_redeclared || new.chains.get(chain) != Some(body) {
                let _ = writeln!(additions, "flush chain inet {table} {chain}");
                flushed.insert(chain);
            }
        }
        for name in fresh.sets.keys().filter(|name| old.sets.contains_key(*name)) {
            let _ = writeln!(additions, "delete set inet {table} {name}");
        }
        let (mut sets, mut chains) = (String::new(), String::new());
        self.add_names(&fresh, &mut sets, &mut chains);
        additions.push_str(&sets);
        additions.push_str(&chains);
        for (chain, body) in &new.chains {
            if flushed.contains(chain) || !old.chains.contains_key(chain) {
                self.add_rules(chain, body, rules);
            }
        }
        for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
            let _ = writeln!(removals, "delete chain inet {table} {chain}");
        }
        for set in old.sets.keys().filter(|set| !new.sets.contains_key(*set)) {
            let _ = writeln!(removals, "delete set inet {table} {set}");
        }
    }

    fn plan_elements(
        &self,
        fragments: &BTreeMap<ObjectKey, Option<Fragment>>,
        deleted: &mut String,
        added: &mut String,
    ) {
        let mut touched: BTreeSet<&ElementKey> = BTreeSet::new();
        for (key, new) in fragments {
            touched.extend(self.fragments.get(key).into_iter().flat_map(|old| old.elements.keys()));
            touched.extend(new.iter().flat_map(|new| new.elements.keys()));
        }
        for element in touched {
            let owners = self.elements.get(element);
            let have = owners.and_then(|owners| owners.values().next());
            let staying = owners.into_iter().flatten().filter(|(owner, _)| !fragments.contains_key(*owner));
            let coming =
                fragments.iter().filter_map(|(owner, new)| Some((owner, new.as_ref()?.elements.get(element)?)));
            let want = staying.chain(coming).min_by_key(|(owner, _)| *owner).map(|(_, value)| value);
            if have == want {
                continue;
            }
            let (lookup, family, text) = element;
            if have.is_some() {
                let _ = writeln!(deleted, "delete element inet {} {} {{ {text} }}", self.name, lookup.name(*family));
            }
            if let Some(value) = want {
                self.add_element(element, value, added);
            }
        }
    }

    fn add_names(&self, fragment: &Fragment, sets: &mut String, chains: &mut String) {
        for (name, declaration) in &fragment.sets {
            let _ = writeln!(sets, "add set inet {} {name} {{ {declaration} }}", self.name);
        }
        for name in fragment.chains.keys() {
            let _ = writeln!(chains, "add chain inet {} {name}", self.name);
        }
    }

    fn add_rules(&self, chain: &str, rules: &[String], script: &mut String) {
        for rule in rules {
            let _ = writeln!(script, "add rule inet {} {chain} {rule}", self.name);
        }
    }

    fn add_element(&self, (lookup, family, key): &ElementKey, value: &Option<String>, script: &mut String) {
        let name = lookup.name(*family);
        let _ = match value {
            Some(value) => writeln!(script, "add element inet {} {name} {{ {key} : {value} }}", self.name),
            None => writeln!(script, "add element inet {} {name} {{ {key} }}", self.name),
        };
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use skiff_host::{netns::Netns, nftables::Nft};

    use super::*;
    use crate::proxy::fragment::{Family, Lookup};

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    /// A service with a chain, and an address that may be another's too.
    fn fragment(name: &str, rule: &str, address: &str) -> Fragment {
        let chain = format!("svc4/default/{name}/tcp/80");
        let mut fragment = Fragment::default();
        let element = (Lookup::Services, Family::V4, format!("{address} . tcp . 80"));
        fragment.elements.insert(element, Some(format!("goto {chain}")));
        fragment.chains.insert(chain, vec![rule.to_owned()]);
        fragment
    }

    fn change(table: &mut Table, name: &str, fragment: Option<Fragment>) -> String {
        let change = table.replace([(key(name), fragment)].into());
        let script = change.script.clone();
        table.commit(change);
        script
    }

    #[test]
    fn a_change_is_as_large_as_what_changes() {
        let mut table = Table::new("", &[], true);
        for name in ["a", "b", "c"] {
            change(&mut table, name, Some(fragment(name, "accept", &format!("10.43.0.{}", name.as_bytes()[0]))));
        }
        let same = fragment("b", "accept", "10.43.0.98");
        assert_eq!(change(&mut table, "b", Some(same)), "");
        let script = change(&mut table, "b", Some(fragment("b", "drop", "10.43.0.98")));
        assert_eq!(
            script,
            "flush chain inet skiff svc4/default/b/tcp/80\nadd rule inet skiff svc4/default/b/tcp/80 drop\n"
        );
        let script = change(&mut table, "b", None);
        assert_eq!(
            script,
            "flush chain inet skiff svc4/default/b/tcp/80\n\
             delete element inet skiff services4 { 10.43.0.98 . tcp . 80 }\n\
             delete chain inet skiff svc4/default/b/tcp/80\n"
        );
    }

    #[test]
    fn an_address_claimed_twice_goes_to_the_first_and_then_to_the_other() {
        let mut table = Table::new("", &[], true);
        change(&mut table, "b", Some(fragment("b", "accept", "198.51.100.1")));
        let script = change(&mut table, "a", Some(fragment("a", "accept", "198.51.100.1")));
        assert!(
            script
                .contains("add element inet skiff services4 { 198.51.100.1 . tcp . 80 : goto svc4/default/a/tcp/80 }")
        );
        let script = change(&mut table, "a", None);
        assert!(
            script
                .contains("add element inet skiff services4 { 198.51.100.1 . tcp . 80 : goto svc4/default/b/tcp/80 }")
        );
    }

    #[test]
    fn every_step_of_a_random_walk_leaves_what_a_fresh_table_would_be() {
        let netns = Netns::create().unwrap();
        netns.run(random_walk).unwrap();
    }

    fn random_walk() {
        let nft = Nft::default();
        let mut table = Table::new("", &["10.42.0.0/16".parse().unwrap()], false);
        nft.apply(&table.full_script()).unwrap();
        let mut seed = 7u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        for _ in 0..60 {
            let mut fragments = BTreeMap::new();
            for _ in 0..1 + random(3) {
                let name = ["a", "b", "c", "d"][random(4) as usize];
                let rule = ["accept", "drop", "return"][random(3) as usize];
                let new = (random(4) > 0).then(|| {
                    let mut new = fragment(name, rule, &format!("10.43.0.{}", random(3)));
                    if random(2) == 0 {
                        let set = format!("aff4/default/{name}");
                        let seconds = 10 + random(2);
                        new.chains
                            .values_mut()
                            .for_each(|rules| rules.insert(0, format!("update @{set} {{ ip saddr }}")));
                        new.sets.insert(set, format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"));
                    }
                    new
                });
                fragments.insert(key(name), new);
            }
            let change = table.replace(fragments);
            nft.apply(&change.script).unwrap_or_else(|error| panic!("{error}\n{}", change.script));
            table.commit(change);
        }
        let listed = |nft: &Nft| -> Vec<String> {
            let text = nft.output(&["list", "table", "inet", "skiff"]).unwrap();
            let text = text.replace(",\n", ",");
            let words = |line: &str| {
                let mut words: Vec<&str> = line.split([',', ' ', '\t']).filter(|word| !word.is_empty()).collect();
                words.sort_unstable();
                words.join(" ")
            };
            let mut lines: Vec<String> = text.lines().map(words).collect();
            lines.sort();
            lines
        };
        let walked = listed(&nft);
        nft.apply(&table.full_script()).unwrap();
        assert_eq!(walked, listed(&nft));
    }
}
