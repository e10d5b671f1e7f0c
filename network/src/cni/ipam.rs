//! Addresses of pods: which are taken, by whom.
//!
//! One file holds all leases of a network; it is replaced by rename, under an
//! exclusive lock, so it is always whole. Invariants: an address has at most
//! one owner; asking again for the same container and interface gives the same
//! addresses; leases of an earlier boot are void (no container survives a
//! boot), and when the subnet is exhausted, leases whose network namespace is
//! gone are taken back. Addresses are handed out round robin, so that a fresh
//! pod does not get the address of one that has just gone.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{config::PortMapping, host_port};

const LEASES_FILE: &str = "leases.json";
const LOCK_FILE: &str = "lock";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why no address could be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
    #[error("leases in {path} do not decode: {source}; move the file away to start over")]
    Corrupt { path: String, source: serde_json::Error },
    #[error("no address is left in {subnet} ({leases} in use)")]
    Exhausted { subnet: IpNet, leases: usize },
}

/// What one interface of one pod holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// One per subnet, in the order of the subnets.
    pub addresses: Vec<IpAddr>,
    pub netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    boot_id: String,
    /// Per subnet, the address given out last.
    last: BTreeMap<String, IpAddr>,
    /// By `container/interface`.
    leases: BTreeMap<String, Lease>,
}

/// The leases of a network, locked against other plugin processes until dropped.
pub struct Pool {
    dir: PathBuf,
    state: State,
    /// Holds the lock.
    _lock: File,
}

impl Pool {
    /// Opens the leases in `dir`, waiting for other processes to finish with them.
    pub fn open(dir: &Path) -> Result<Pool, IpamError> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(|source| io_error(Path::new(BOOT_ID), source))?;
        Pool::open_in_boot(dir, boot_id.trim())
    }

    fn open_in_boot(dir: &Path, boot_id: &str) -> Result<Pool, IpamError> {
        fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
        let lock_path = dir.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| io_error(&lock_path, source))?;
        let mut state = read_state(&dir.join(LEASES_FILE))?;
        if state.boot_id != boot_id {
            state = State { boot_id: boot_id.to_owned(), last: state.last, leases: BTreeMap::new() };
        }
        Ok(Pool { dir: dir.to_owned(), state, _lock: lock })
    }

    pub fn lease(&self, container: &str, interface: &str) -> Option<&Lease> {
        self.state.leases.get(&key(container, interface))
    }

    /// All leases, by container and interface.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &str, &Lease)> {
        self.state.leases.iter().filter_map(|(key, lease)| {
            let (container, interface) = key.split_once('/')?;
            Some((container, interface, lease))
        })
    }

    /// Gives the interface an address of every subnet and remembers its published ports.
    pub fn reserve(
        &mut self,
        container: &str,
        interface: &str,
        netns: &str,
        subnets: &[IpNet],
        port_mappings: &[PortMapping],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let key = key(container, interface);
        let held = self.state.leases.remove(&key).map(|lease| lease.addresses).unwrap_or_default();
        let fits = held.len() == subnets.len() && held.iter().zip(subnets).all(|(address, net)| net.contains(address));
        let addresses = if fits { held } else { self.pick(subnets)? };
        for (net, address) in subnets.iter().zip(&addresses) {
            self.state.last.insert(net.to_string(), *address);
        }
        let lease =
            Lease { addresses: addresses.clone(), netns: netns.to_owned(), port_mappings: port_mappings.to_vec() };
        self.state.leases.insert(key, lease);
        self.write()?;
        Ok(addresses)
    }

    /// Ports of other pods that stand in the way of `wanted`. The scheduler never
    /// gives a port to two living pods, so their owners are gone without a DEL;
    /// they lose the ports, and the caller removes the rules.
    pub fn displace_ports(
        &mut self,
        container: &str,
        interface: &str,
        wanted: &[PortMapping],
    ) -> Vec<(PortMapping, Vec<IpAddr>)> {
        let own = key(container, interface);
        let mut displaced = Vec::new();
        for (_, lease) in self.state.leases.iter_mut().filter(|(key, _)| **key != own) {
            let addresses = &lease.addresses;
            lease.port_mappings.retain(|mapping| {
                let is_wanted = wanted.iter().any(|want| host_port::conflicts(want, mapping));
                if is_wanted {
                    displaced.push((mapping.clone(), addresses.clone()));
                }
                !is_wanted
            });
        }
        displaced
    }

    /// Takes the addresses back; gives what was held, if anything.
    pub fn release(&mut self, container: &str, interface: &str) -> Result<Option<Lease>, IpamError> {
        let lease = self.state.leases.remove(&key(container, interface));
        if lease.is_some() {
            self.write()?;
        }
        Ok(lease)
    }

    fn pick(&mut self, subnets: &[IpNet]) -> Result<Vec<IpAddr>, IpamError> {
        let pick_all = |state: &State| -> Result<Vec<IpAddr>, IpNet> {
            let taken: HashSet<IpAddr> =
                state.leases.values().flat_map(|lease| lease.addresses.iter().copied()).collect();
            let pick = |net: &IpNet| {
                let last = state.last.get(&net.to_string()).copied();
                free_address(*net, last, &taken).ok_or(*net)
            };
            subnets.iter().map(pick).collect()
        };
        if let Ok(addresses) = pick_all(&self.state) {
            return Ok(addresses);
        }
        self.state.leases.retain(|_, lease| Path::new(&lease.netns).exists());
        let leases = self.state.leases.len();
        pick_all(&self.state).map_err(|subnet| IpamError::Exhausted { subnet, leases })
    }

    fn write(&self) -> Result<(), IpamError> {
        let path = self.dir.join(LEASES_FILE);
        let temporary = self.dir.join(format!("{LEASES_FILE}.tmp"));
        let bytes = serde_json::to_vec(&self.state)
            .map_err(|source| IpamError::Corrupt { path: path.display().to_string(), source })?;
        File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| io_error(&path, source))
    }
}

/// The first address of a subnet: the pods' gateway, on the bridge.
pub fn gateway(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
    }
}

/// The next free address after `last`, leaving out network, gateway and broadcast address.
fn free_address(net: IpNet, last: Option<IpAddr>, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let (first, end) = match net {
        IpNet::V4(net) => v4_range(net),
        IpNet::V6(net) => v6_range(net),
    };
    let to_address = |number: u128| match net {
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    };
    let after = match last {
        Some(IpAddr::V4(last)) => u128::from(u32::from(last)) + 1,
        Some(IpAddr::V6(last)) => u128::from(last).saturating_add(1),
        None => first,
    };
    let start = if (first..=end).contains(&after) { after } else { first };
    (start..=end).chain(first..start).map(to_address).find(|address| !taken.contains(address))
}

fn v4_range(net: Ipv4Net) -> (u128, u128) {
    let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
    (u128::from(network) + 2, u128::from(broadcast) - 1)
}

fn v6_range(net: Ipv6Net) -> (u128, u128) {
    (u128::from(net.network()) + 2, u128::from(net.broadcast()))
}

fn key(container: &str, interface: &str) -> String {
    format!("{container}/{interface}")
}

fn read_state(path: &Path) -> Result<State, IpamError> {
    match fs::read(path) {
        // A power cut can leave an empty file behind; nothing it held survived the cut either.
        Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => Ok(State::default()),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| IpamError::Corrupt { path: path.display().to_string(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(source) => Err(io_error(path, source)),
    }
}

fn io_error(path: &Path, source: io::Error) -> IpamError {
    IpamError::Io { context: format!("access {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_given_round_robin_and_the_same_to_the_same_pod() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = nets(&["10.42.0.0/24", "fd00:42::/64"]);
        let reserve =
            |container: &str| Pool::open(dir.path()).unwrap().reserve(container, "eth0", "/x", &subnets, &[]).unwrap();
        let first = reserve("a");
        assert_eq!(first, ["10.42.0.2".parse::<IpAddr>().unwrap(), "fd00:42::2".parse().unwrap()]);
        assert_eq!(reserve("a"), first);
        Pool::open(dir.path()).unwrap().release("a", "eth0").unwrap().unwrap();
        assert_eq!(Pool::open(dir.path()).unwrap().release("a", "eth0").unwrap(), None);
        assert_eq!(reserve("b")[0], "10.42.0.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn exhaustion_takes_back_leases_of_vanished_namespaces_and_is_reported_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = nets(&["10.42.0.0/29"]);
        let living = dir.path().to_str().unwrap();
        let mut pool = Pool::open(dir.path()).unwrap();
        pool.reserve("gone", "eth0", "/nonexistent/netns", &subnets, &[]).unwrap();
        for container in ["a", "b", "c", "d", "e"] {
            pool.reserve(container, "eth0", living, &subnets, &[]).unwrap();
        }
        let error = pool.reserve("f", "eth0", living, &subnets, &[]).unwrap_err();
        assert!(matches!(error, IpamError::Exhausted { leases: 5, .. }), "{error}");
        assert!(pool.lease("gone", "eth0").is_none());
    }

    #[test]
    fn leases_of_an_earlier_boot_are_void_and_their_addresses_not_reused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = nets(&["10.42.0.0/24"]);
        Pool::open_in_boot(dir.path(), "one").unwrap().reserve("a", "eth0", "/", &subnets, &[]).unwrap();
        let mut pool = Pool::open_in_boot(dir.path(), "two").unwrap();
        assert!(pool.lease("a", "eth0").is_none());
        assert_eq!(pool.reserve("b", "eth0", "/", &subnets, &[]).unwrap()[0], "10.42.0.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn an_empty_file_is_a_fresh_start_and_a_broken_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LEASES_FILE), "").unwrap();
        Pool::open(dir.path()).unwrap();
        fs::write(dir.path().join(LEASES_FILE), "{").unwrap();
        assert!(matches!(Pool::open(dir.path()), Err(IpamError::Corrupt { .. })));
    }

    #[test]
    fn concurrent_processes_never_share_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = nets(&["10.42.0.0/24"]);
        let addresses: Vec<IpAddr> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..20)
                .map(|number| {
                    let (dir, subnets) = (dir.path(), &subnets);
                    scope.spawn(move || {
                        let mut pool = Pool::open(dir).unwrap();
                        pool.reserve(&format!("c{number}"), "eth0", "/", subnets, &[]).unwrap()[0]
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), 20);
    }
}
