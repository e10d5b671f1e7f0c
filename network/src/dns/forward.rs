//! The `forward` plugin: names of others are asked of other servers.
//!
//! Every question goes out from a fresh socket with a random identity, so that
//! an answer cannot be guessed. A server that did not answer goes to the end of
//! the list until it answers again. Questions beyond the limit are refused
//! rather than queued.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    message::{Answer, Query, Rcode},
    name::Name,
};
use crate::limits::{DNS_FORWARD_DEADLINE, DNS_FORWARD_LEN_MAX, DNS_FORWARD_TRY};

/// How the first server to ask is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Random,
    RoundRobin,
    Sequential,
}

/// Settings of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    pub zone: Name,
    pub except: Vec<Name>,
    pub servers: Vec<SocketAddr>,
    pub policy: Policy,
    pub force_tcp: bool,
    pub max_concurrent: usize,
    /// Failures in a row after which a server is asked last.
    pub max_fails: u32,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        ForwardConfig {
            zone: Name::root(),
            except: Vec::new(),
            servers: Vec::new(),
            policy: Policy::Random,
            force_tcp: false,
            max_concurrent: DNS_FORWARD_LEN_MAX,
            max_fails: 2,
        }
    }
}

struct Upstream {
    address: SocketAddr,
    failures: AtomicU32,
}

/// The plugin with what it knows of its servers.
pub struct Forward {
    config: ForwardConfig,
    upstreams: Vec<Upstream>,
    turn: AtomicUsize,
    running: AtomicUsize,
    /// Set when this server was found to ask itself.
    is_looping: AtomicBool,
}

impl Forward {
    pub fn new(config: ForwardConfig) -> Forward {
        let upstreams =
            config.servers.iter().map(|address| Upstream { address: *address, failures: AtomicU32::new(0) }).collect();
        Forward { config, upstreams, turn: AtomicUsize::new(0), running: AtomicUsize::new(0), is_looping: false.into() }
    }

    pub fn accepts(&self, name: &Name) -> bool {
        name.is_within(&self.config.zone) && !self.config.except.iter().any(|zone| name.is_within(zone))
    }

    /// Stops asking, because the servers lead back here.
    pub fn set_looping(&self) -> bool {
        self.is_looping.swap(true, Ordering::Relaxed)
    }

    /// Asks the servers, best first, until one answers or time is up.
    pub async fn ask(&self, query: &Query) -> Answer {
        if self.is_looping.load(Ordering::Relaxed) {
            return Answer::code(Rcode::SERVER_FAILURE);
        }
        let guard = Running::enter(&self.running);
        if guard.others >= self.config.max_concurrent {
            return Answer::code(Rcode::REFUSED);
        }
        let answer = timeout(DNS_FORWARD_DEADLINE, self.ask_in_turn(query)).await;
        answer.ok().flatten().unwrap_or_else(|| Answer::code(Rcode::SERVER_FAILURE))
    }

    async fn ask_in_turn(&self, query: &Query) -> Option<Answer> {
        let mut failure = None;
        for upstream in self.in_order() {
            let answer = self.ask_one(upstream, query).await;
            match answer {
                Some(answer) if answer.rcode != Rcode::SERVER_FAILURE && answer.rcode != Rcode::REFUSED => {
                    upstream.failures.store(0, Ordering::Relaxed);
                    return Some(answer);
                }
                // It lives, but cannot help; perhaps another can.
                Some(answer) => failure = failure.or(Some(answer)),
                None => {
                    let failures = upstream.failures.fetch_add(1, Ordering::Relaxed) + 1;
                    if failures == self.config.max_fails {
                        tracing::warn!(component = "dns", server = %upstream.address, "upstream server does not answer");
                    }
                }
            }
        }
        failure
    }

    /// All servers once: those that answer first, beginning as the policy says.
    fn in_order(&self) -> Vec<&Upstream> {
        let count = self.upstreams.len().max(1);
        let first = match self.config.policy {
            Policy::Sequential => 0,
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % count,
            Policy::Random => rand::random_range(0..count),
        };
        let rotated = self.upstreams.iter().cycle().skip(first).take(self.upstreams.len());
        let mut ordered: Vec<&Upstream> = rotated.collect();
        ordered.sort_by_key(|upstream| upstream.failures.load(Ordering::Relaxed) >= self.config.max_fails.max(1));
        ordered
    }

    async fn ask_one(&self, upstream: &Upstream, query: &Query) -> Option<Answer> {
        let id: u16 = rand::random();
        let message = query.encode(id);
        if !self.config.force_tcp {
            let answer = timeout(DNS_FORWARD_TRY, ask_udp(upstream.address, &message, id, query)).await;
            let answer = answer.ok()?.ok()?;
            if !answer.is_truncated {
                return Some(answer);
            }
        }
        let answer = timeout(DNS_FORWARD_TRY, ask_tcp(upstream.address, &message)).await.ok()?.ok()?;
        Answer::parse(&answer, id, query)
    }
}

struct Running<'a> {
    running: &'a AtomicUsize,
    others: usize,
}

impl<'a> Running<'a> {
    fn enter(running: &'a AtomicUsize) -> Running<'a> {
        Running { running, others: running.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn ask_udp(server: SocketAddr, message: &[u8], id: u16, query: &Query) -> std::io::Result<Answer> {
    let local: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is a late or forged answer.
        if let Some(answer) = Answer::parse(&buffer[..length], id, query) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The `nameserver` lines of a resolver configuration.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.split(['#', ';']).next()?.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().split('%').next()?.parse::<IpAddr>().ok()).map(|ip| (ip, 53).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_configurations_are_read() {
        let text = "# local\nsearch x\nnameserver 192.0.2.1\nnameserver fd00::1%eth0 ; y\noptions ndots:5\n";
        assert_eq!(nameservers(text), ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }

    #[test]
    fn servers_that_fail_are_asked_last() {
        let servers = vec!["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
        let forward = Forward::new(ForwardConfig { servers, policy: Policy::Sequential, ..Default::default() });
        forward.upstreams[0].failures.store(2, Ordering::Relaxed);
        let order: Vec<String> = forward.in_order().iter().map(|upstream| upstream.address.to_string()).collect();
        assert_eq!(order, ["192.0.2.2:53", "192.0.2.1:53"]);
    }
}
