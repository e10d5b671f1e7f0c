//! The server that test pods run: answers over HTTP and UDP who it is, who
//! asked and what was asked, can ask others itself, and can turn unhealthy.
//!
//! `agnhost netexec [--http-port N] [--udp-port N] [--fail-after SECONDS]
//! [--tls-port N --tls-cert FILE --tls-key FILE]`, `agnhost registry` (see its file),
//! `agnhost grpc-health-checking`, `agnhost sample-apiserver ...` and `agnhost webhook ...` (see their files), `agnhost guestbook ...`,
//! `agnhost mtlsserver ...` and `agnhost mtlsclient ...` (see their files),
//! `agnhost pause`, `agnhost entrypoint-tester WORDS...`. Ends on SIGTERM, even as process 1.

mod grpc;
mod guestbook;
mod mtls;
mod registry;
mod sample_api;
mod tls;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// How long asking another server may take.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// Bodies of requests are read up to this.
const BODY_LIMIT: usize = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let work = async {
        match words.first().map(String::as_str) {
            Some("netexec") => netexec(&words[1..]).await,
            Some("grpc-health-checking") => grpc::serve(5000).await,
            Some("registry") => registry::serve(&words[1..]).await,
            Some("sample-apiserver") => sample_api::serve(&words[1..]).await,
            Some("guestbook") => guestbook::serve(&words[1..]).await,
            Some("mtlsserver") => mtls::serve(&words[1..]).await,
            Some("mtlsclient") => mtls::ask(&words[1..]).await,
            Some("webhook") => webhook::serve(&words[1..]).await,
            Some("entrypoint-tester") => {
                println!("{:?}", std::env::args().collect::<Vec<_>>());
                Ok(())
            }
            Some("pause") => {
                println!("Paused");
                std::future::pending().await
            }
            other => bail!("unknown word {other:?}"),
        }
    };
    tokio::select! { result = work => result, _ = terminate.recv() => Ok(()) }
}

/// Value after a flag.
fn flag(words: &[String], name: &str) -> Option<String> {
    words.iter().position(|word| word == name).and_then(|at| words.get(at + 1).cloned())
}

async fn netexec(words: &[String]) -> Result<()> {
    let http_ports = flag(words, "--http-port").unwrap_or_else(|| "8080".to_owned());
    let udp_port: u16 = flag(words, "--udp-port").map_or(Ok(8081), |port| port.parse())?;
    let fail_after = flag(words, "--fail-after").map(|seconds| seconds.parse()).transpose()?.map(Duration::from_secs);
    let begun = Instant::now();
    let mut listeners = Vec::new();
    for port in http_ports.split(',') {
        listeners.push(TcpListener::bind(("::", port.parse()?)).await.context("listen")?);
    }
    let udp = UdpSocket::bind(("::", udp_port)).await?;
    println!("serving http on {http_ports}, udp on {udp_port}");
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        servers.spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await?;
                tokio::spawn(async move {
                    let healthy = fail_after.is_none_or(|limit| begun.elapsed() < limit);
                    if let Err(error) = serve(stream, peer, healthy).await {
                        println!("{peer}: {error:#}");
                    }
                });
            }
        });
    }
    if let Some(port) = flag(words, "--tls-port") {
        let file = |name: &str| flag(words, name).with_context(|| format!("{name} is missing"));
        let acceptor = tls::acceptor(&file("--tls-cert")?, &file("--tls-key")?, None)?;
        let listener = TcpListener::bind(("::", port.parse()?)).await.context("listen")?;
        servers.spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await?;
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let served = async { serve(acceptor.accept(stream).await?, peer, true).await };
                    if let Err(error) = served.await {
                        println!("{peer}: {error:#}");
                    }
                });
            }
        });
    }
    servers.spawn(async move {
        let mut buffer = vec![0; 2048];
        loop {
            let (size, peer) = udp.recv_from(&mut buffer).await?;
            let text = String::from_utf8_lossy(&buffer[..size]).trim().to_owned();
            let answer = match text.split_once(' ') {
                Some(("echo", rest)) => rest.to_owned(),
                _ if text == "hostname" => hostname(),
                _ if text == "clientip" => client(peer),
                _ => String::new(),
            };
            udp.send_to(answer.as_bytes(), peer).await?;
        }
    });
    match servers.join_next().await {
        Some(result) => result?,
        None => Ok(()),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, healthy: bool) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next().unwrap_or("GET").to_owned(), parts.next().unwrap_or("/").to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim().split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let length: usize = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length.min(BODY_LIMIT)];
    stream.read_exact(&mut body).await?;
    println!("{method} {target} from {}", client(peer));
    let (status, answer) = answer(&method, &target, &headers, peer, healthy).await;
    let length = answer.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    );
    let mut stream = stream.into_inner();
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(answer.as_bytes()).await?;
    }
    stream.shutdown().await?;
    if target == "/shutdown" {
        std::process::exit(0);
    }
    Ok(())
}

async fn answer(
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    peer: SocketAddr,
    healthy: bool,
) -> (&'static str, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decode(value)))
        .collect();
    let of = |name: &str| query.get(name).cloned().unwrap_or_default();
    match path {
        "/hostname" | "/hostName" => ("200 OK", hostname()),
        "/clientip" => ("200 OK", client(peer)),
        "/header" => ("200 OK", headers.get(&of("key").to_lowercase()).cloned().unwrap_or_default()),
        "/echo" => ("200 OK", if query.contains_key("method") { method.to_owned() } else { of("msg") }),
        "/healthz" if healthy => ("200 OK", "ok".to_owned()),
        "/healthz" => ("500 Internal Server Error", "unhealthy".to_owned()),
        "/dial" => match dial(&query).await {
            Ok(answer) => ("200 OK", answer),
            Err(error) => ("502 Bad Gateway", format!("{error:#}")),
        },
        _ => ("200 OK", format!("method={method} path={path}")),
    }
}

/// Asks another server several times and lists the different answers.
async fn dial(query: &BTreeMap<String, String>) -> Result<String> {
    let of = |name: &str| query.get(name).with_context(|| format!("{name} is missing"));
    let (host, port, request) = (of("host")?, of("port")?, of("request")?);
    let tries: usize = query.get("tries").map_or(Ok(1), |tries| tries.parse())?;
    let udp = query.get("protocol").is_some_and(|protocol| protocol == "udp");
    let (mut answers, mut errors) = (BTreeSet::new(), Vec::new());
    for _ in 0..tries {
        let one = async { if udp { ask_udp(host, port, request).await } else { ask_http(host, port, request).await } };
        match timeout(DIAL_LIMIT, one).await {
            Ok(Ok(answer)) => drop(answers.insert(answer)),
            Ok(Err(error)) => errors.push(format!("{error:#}")),
            Err(_) => errors.push("no answer in time".to_owned()),
        }
    }
    Ok(format!("answers={}\nerrors={}", answers.into_iter().collect::<Vec<_>>().join(","), errors.join(",")))
}

async fn ask_udp(host: &str, port: &str, request: &str) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(format!("{host}:{port}")).await?;
    socket.send(request.as_bytes()).await?;
    let mut buffer = vec![0; 2048];
    let size = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

async fn ask_http(host: &str, port: &str, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(format!("{host}:{port}")).await?;
    let head = format!("GET /{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
    if !head.contains(" 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn client(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

/// Undoes percent encoding.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
