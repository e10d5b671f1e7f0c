//! The guestbook: entries are set at a primary, which hands them to the replicas
//! that registered with it; a frontend passes requests on to either by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::flag;

/// How long asking another part may take.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Pause between attempts of a replica to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);

enum Role {
    Frontend { backend_port: String },
    Primary,
    Replica,
}

struct Part {
    role: Role,
    entries: Mutex<BTreeMap<String, String>>,
    replicas: Mutex<Vec<String>>,
}

/// Serves until the process ends.
pub async fn serve(words: &[String]) -> Result<()> {
    let port = flag(words, "--http-port").unwrap_or_else(|| "80".to_owned());
    let primary = flag(words, "--replicaof");
    let role = match (flag(words, "--backend-port"), &primary) {
        (Some(backend_port), _) => Role::Frontend { backend_port },
        (None, Some(_)) => Role::Replica,
        (None, None) => Role::Primary,
    };
    let part = Arc::new(Part { role, entries: Mutex::default(), replicas: Mutex::default() });
    let listener = TcpListener::bind(("::", port.parse()?)).await.context("listen")?;
    if let Some(primary) = primary {
        let port = port.clone();
        tokio::spawn(async move {
            while let Err(error) = ask(&primary, &format!("/register?port={port}")).await {
                println!("register: {error:#}");
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
        });
    }
    println!("serving the guestbook on {port}");
    loop {
        let (stream, peer) = listener.accept().await?;
        let part = Arc::clone(&part);
        tokio::spawn(async move {
            if let Err(error) = one(&part, stream, &peer.ip().to_canonical().to_string()).await {
                println!("{peer}: {error:#}");
            }
        });
    }
}

async fn one(part: &Part, stream: TcpStream, peer: &str) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).context("a path")?.to_owned();
    while stream.read_line(&mut line).await? > 2 {}
    let (code, body) = match part.answer(&path, peer).await {
        Ok(body) => ("200 OK", body),
        Err(error) => ("503 Service Unavailable", format!("{error:#}")),
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {code}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

impl Part {
    async fn answer(&self, path: &str, peer: &str) -> Result<String> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
        };
        let (key, entry) = (value("key"), value("value"));
        match (&self.role, path, value("cmd").as_str()) {
            (_, "/" | "/healthz", _) => Ok("ok".to_owned()),
            (Role::Frontend { backend_port }, "/guestbook", "set") => {
                ask(&format!("agnhost-primary:{backend_port}"), &format!("/set?key={key}&value={entry}")).await
            }
            (Role::Frontend { backend_port }, "/guestbook", "get") => {
                ask(&format!("agnhost-replica:{backend_port}"), &format!("/get?key={key}")).await
            }
            (Role::Primary, "/register", _) => {
                let replica = format!("{}:{}", bracketed(peer), value("port"));
                let entries = locked(&self.entries).clone();
                for (key, entry) in entries {
                    ask(&replica, &format!("/set?key={key}&value={entry}")).await?;
                }
                locked(&self.replicas).push(replica);
                Ok(String::new())
            }
            (Role::Primary | Role::Replica, "/set", _) => {
                locked(&self.entries).insert(key.clone(), entry.clone());
                let replicas = locked(&self.replicas).clone();
                for replica in replicas {
                    ask(&replica, &format!("/set?key={key}&value={entry}")).await?;
                }
                Ok("{\"message\":\"Updated\"}".to_owned())
            }
            (Role::Primary | Role::Replica, "/get", _) => {
                let entry = locked(&self.entries).get(&key).cloned().unwrap_or_default();
                Ok(format!("{{\"data\":\"{entry}\"}}"))
            }
            _ => bail!("nothing is at {path}"),
        }
    }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// GET of another part; anything but 200 is an error.
async fn ask(address: &str, path: &str) -> Result<String> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{head}: {body}");
        }
        Ok(body.to_owned())
    };
    timeout(ASK_LIMIT, work).await.with_context(|| format!("{address} does not answer"))?
}
