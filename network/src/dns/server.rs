//! Sockets: UDP on threads of their own, TCP and upstream questions on the runtime.
//!
//! Several UDP sockets share a port, each with a thread that receives, answers
//! and sends without ever switching tasks; the kernel spreads clients over
//! them. Questions that need upstream go to one task that owns all of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    chain::{Pending, Server, Step},
    http,
    message::{Answer, BadQuery, Query, Rcode, encode_error},
    metrics::Protocol,
    presentation::type_name,
};
use crate::limits::{DNS_FORWARD_LEN_MAX, DNS_TCP_IDLE, DNS_TCP_LEN_MAX};

/// Threads per UDP port; more do not help before the network card is the limit.
const UDP_THREADS_MAX: usize = 4;
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const MESSAGE_BYTES_MAX: usize = 65_535;

/// All servers of the current configuration; replaced as a whole on reload.
pub type Servers = Arc<ArcSwap<Vec<Arc<Server>>>>;

/// A question that needs upstream, and how to answer it.
pub struct ForwardJob {
    server: Arc<Server>,
    query: Query,
    pending: Pending,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    start: Instant,
}

/// Everything a socket needs to answer.
#[derive(Clone)]
pub struct Responder {
    servers: Servers,
    forward: mpsc::Sender<ForwardJob>,
}

/// The owner of questions that wait for upstream.
pub struct ForwardOwner(mpsc::Receiver<ForwardJob>);

/// Makes the two ends.
pub fn responder(servers: Servers) -> (Responder, ForwardOwner) {
    let (sender, receiver) = mpsc::channel(DNS_FORWARD_LEN_MAX);
    (Responder { servers, forward: sender }, ForwardOwner(receiver))
}

impl ForwardOwner {
    /// Carries questions upstream until cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                Some(_) = running.join_next() => {}
                job = self.0.recv(), if running.len() < DNS_FORWARD_LEN_MAX => {
                    let Some(job) = job else { return };
                    running.spawn(job.run());
                }
            }
        }
    }
}

impl ForwardJob {
    async fn run(self) {
        let answer = self.server.finish(&self.query, self.pending).await;
        let mut bytes = Vec::with_capacity(512);
        answer.encode(&self.query, self.query.udp_bytes(), 0, &mut bytes);
        account(&self.server, &self.query, &answer, self.start, self.client);
        // A client that is gone has no use for the answer.
        let _ = self.socket.send_to(&bytes, self.client);
    }
}

enum Heard {
    Nothing,
    Answer,
    Forward(Arc<Server>, Query, Box<Pending>),
}

impl Responder {
    /// Reads a question and answers it into `bytes` if that is possible without waiting.
    fn hear(&self, port: u16, message: &[u8], client: SocketAddr, protocol: Protocol, bytes: &mut Vec<u8>) -> Heard {
        let start = Instant::now();
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(BadQuery::Drop) => return Heard::Nothing,
            Err(BadQuery::Answer(id, rcode)) => {
                bytes.clear();
                bytes.extend_from_slice(&encode_error(id, rcode));
                return Heard::Answer;
            }
        };
        let limit = match protocol {
            Protocol::Udp => query.udp_bytes(),
            Protocol::Tcp => MESSAGE_BYTES_MAX,
        };
        let servers = self.servers.load();
        let of_port = servers.iter().filter(|server| server.port == port);
        let best = of_port.filter_map(|server| Some((server.zone_length(&query.name)?, server)));
        let Some((_, server)) = best.max_by_key(|(length, _)| *length) else {
            Answer::code(Rcode::REFUSED).encode(&query, limit, 0, bytes);
            return Heard::Answer;
        };
        server.metrics.request(protocol, client.ip().to_canonical().is_ipv4(), query.record_type);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            Answer::code(Rcode::BAD_VERSION).encode(&query, limit, 0, bytes);
            return Heard::Answer;
        }
        match server.begin(&query) {
            Step::Done(answer, age) => {
                answer.encode(&query, limit, age, bytes);
                account(server, &query, &answer, start, client);
                Heard::Answer
            }
            Step::Forward(pending) => Heard::Forward(Arc::clone(server), query, pending),
        }
    }
}

fn account(server: &Server, query: &Query, answer: &Answer, start: Instant, client: SocketAddr) {
    let took = start.elapsed();
    server.metrics.response(answer.rcode, took);
    if server.has_log {
        tracing::info!(
            component = "dns", client = %client, name = %query.name, kind = type_name(query.record_type),
            rcode = answer.rcode.0, answers = answer.answers.len(), took_us = took.as_micros() as u64, "query"
        );
    }
    if server.has_errors && answer.rcode == Rcode::SERVER_FAILURE {
        tracing::warn!(component = "dns", name = %query.name, kind = type_name(query.record_type), "query failed");
    }
}

/// Opens the UDP sockets of a port and a thread for each; they live as long as the process.
pub fn serve_udp(address: IpAddr, port: u16, responder: &Responder) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(UDP_THREADS_MAX);
    for _ in 0..threads {
        let socket = Arc::new(open_udp(address, port)?);
        let responder = responder.clone();
        std::thread::Builder::new()
            .name(format!("dns-udp-{port}"))
            .spawn(move || receive_loop(&socket, port, &responder))?;
    }
    Ok(())
}

fn receive_loop(socket: &Arc<UdpSocket>, port: u16, responder: &Responder) {
    let mut buffer = [0; 4096];
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let (length, client) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // Errors of earlier answers are reported here; the socket itself is well.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::debug!(component = "dns", %error, "receive");
                continue;
            }
        };
        let start = Instant::now();
        match responder.hear(port, &buffer[..length], client, Protocol::Udp, &mut bytes) {
            Heard::Nothing => continue,
            Heard::Answer => {}
            Heard::Forward(server, query, pending) => {
                let socket = Arc::clone(socket);
                let job = ForwardJob { server, query, pending: *pending, socket, client, start };
                match responder.forward.try_send(job) {
                    Ok(()) => continue,
                    Err(error) => {
                        let job = error.into_inner();
                        let limit = job.query.udp_bytes();
                        Answer::code(Rcode::REFUSED).encode(&job.query, limit, 0, &mut bytes);
                    }
                }
            }
        }
        let _ = socket.send_to(&bytes, client);
    }
}

/// A UDP socket that shares its port with others of this process.
fn open_udp(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let open = |address: IpAddr| -> io::Result<UdpSocket> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        // A burst must survive a moment in which the thread does not run; the kernel may allow less.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        net::bind(&socket, &SocketAddr::new(address, port))?;
        Ok(UdpSocket::from(socket))
    };
    match open(address) {
        Err(_) if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => open(Ipv4Addr::UNSPECIFIED.into()),
        result => result,
    }
}

/// Opens the TCP listener of a port.
pub async fn listen_tcp(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    http::listen(SocketAddr::new(address, port)).await
}

/// Serves DNS over TCP until cancelled.
pub async fn serve_tcp(listener: TcpListener, port: u16, responder: Responder, token: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < DNS_TCP_LEN_MAX => {
                let Ok((stream, client)) = accepted else { continue };
                let responder = responder.clone();
                connections.spawn(async move {
                    // A connection ends when the client, the network or the idle limit says so.
                    let _ = converse(stream, client, port, &responder).await;
                });
            }
        }
    }
}

async fn converse(mut stream: TcpStream, client: SocketAddr, port: u16, responder: &Responder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let Ok(length) = timeout(DNS_TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
        let mut message = vec![0; usize::from(length?)];
        timeout(DNS_TCP_IDLE, stream.read_exact(&mut message)).await.map_err(io::Error::other)??;
        let start = Instant::now();
        match responder.hear(port, &message, client, Protocol::Tcp, &mut bytes) {
            Heard::Nothing => return Ok(()),
            Heard::Answer => {}
            Heard::Forward(server, query, pending) => {
                let answer = server.finish(&query, *pending).await;
                answer.encode(&query, MESSAGE_BYTES_MAX, 0, &mut bytes);
                account(&server, &query, &answer, start, client);
            }
        }
        let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        timeout(DNS_TCP_IDLE, stream.write_all(&framed)).await.map_err(io::Error::other)??;
    }
}
