//! A registry on the loopback address that offers one image of one file, for
//! pods that must really pull: `agnhost registry --port N --name REPOSITORY --file PATH --content TEXT`.
//!
//! The image is a tar layer made on the spot. Only reading is answered.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ring::digest::{SHA256, digest};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::flag;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is offered: digest or tag -> (media type, bytes).
type Blobs = BTreeMap<String, (&'static str, Vec<u8>)>;

pub async fn serve(words: &[String]) -> Result<()> {
    let of = |name: &str| flag(words, name).with_context(|| format!("{name} is missing"));
    let port: u16 = of("--port")?.parse()?;
    let prefix = format!("/v2/{}/", of("--name")?);
    let blobs = image(&of("--file")?, of("--content")?.as_bytes())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen")?;
    println!("serving {prefix} on {port}");
    loop {
        let (stream, _) = listener.accept().await?;
        if let Err(error) = answer(stream, &prefix, &blobs).await {
            println!("{error:#}");
        }
    }
}

fn name_of(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn image(path: &str, content: &[u8]) -> Result<Blobs> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    layer.append_data(&mut header, path, content)?;
    let layer = layer.into_inner()?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::to_vec(&json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [name_of(&layer)]}}))?;
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "size": bytes.len(), "digest": name_of(bytes)});
    let manifest = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": part(CONFIG, &config), "layers": [part(LAYER, &layer)]}))?;
    let mut blobs = Blobs::new();
    blobs.insert(name_of(&layer), ("application/octet-stream", layer));
    blobs.insert(name_of(&config), ("application/octet-stream", config));
    blobs.insert(name_of(&manifest), (MANIFEST, manifest.clone()));
    blobs.insert("latest".to_owned(), (MANIFEST, manifest));
    Ok(blobs)
}

async fn answer(stream: TcpStream, prefix: &str, blobs: &Blobs) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await? == 0 || header.trim().is_empty() {
            break;
        }
    }
    println!("{}", line.trim());
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let wanted = path.strip_prefix(prefix).and_then(|rest| rest.split_once('/')).map(|(_, name)| name);
    let mut stream = stream.into_inner();
    match wanted.and_then(|name| blobs.get(name)) {
        Some((kind, bytes)) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\
                 Connection: close\r\n\r\n",
                bytes.len(),
                name_of(bytes)
            );
            stream.write_all(head.as_bytes()).await?;
            if method != "HEAD" {
                stream.write_all(bytes).await?;
            }
        }
        None => {
            let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
    }
    stream.shutdown().await?;
    Ok(())
}
