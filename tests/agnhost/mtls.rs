//! `agnhost mtlsserver --listen ADDRESS --server-creds FILE --spiffe-trust-bundle FILE`
//! tells its clients who they are by their certificates; `agnhost mtlsclient
//! --fetch-url URL --server-trust-bundle FILE --client-cred-bundle FILE` asks it again and again.
//!
//! A credential file holds the key and then the chain.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, server::TlsStream};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{flag, tls};

/// Between two questions of the client.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a conversation may take.
const LIMIT: Duration = Duration::from_secs(10);

fn required(words: &[String], name: &str) -> Result<String> {
    let joined = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    joined.or_else(|| flag(words, name)).with_context(|| format!("{name} is missing"))
}

pub async fn serve(words: &[String]) -> Result<()> {
    let (listen, credentials) = (required(words, "--listen")?, required(words, "--server-creds")?);
    let trusted = required(words, "--spiffe-trust-bundle")?;
    let listener = TcpListener::bind(&listen).await.context("listen")?;
    println!("listening on {listen}");
    loop {
        let (stream, peer) = listener.accept().await?;
        // Anew each time: the files change.
        let acceptor = tls::acceptor(&credentials, &credentials, Some(&trusted))?;
        tokio::spawn(async move {
            let served = async { answer(acceptor.accept(stream).await?).await };
            match timeout(LIMIT, served).await {
                Ok(Ok(())) => println!("{peer}: served"),
                Ok(Err(error)) => println!("{peer}: {error:#}"),
                Err(_) => println!("{peer}: too slow"),
            }
        });
    }
}

async fn answer(mut stream: TlsStream<TcpStream>) -> Result<()> {
    let certificates = stream.get_ref().1.peer_certificates().context("no certificate")?;
    let body = format!("Client Identity: {}", identity(certificates.first().context("no certificate")?)?);
    let mut request = vec![0; 4096];
    let _ = stream.read(&mut request).await?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// The address a certificate names its owner by.
fn identity(certificate: &[u8]) -> Result<String> {
    let (_, certificate) = X509Certificate::from_der(certificate)?;
    let names = certificate.subject_alternative_name()?.context("no alternative names")?;
    let uri = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uri.context("no URI")
}

pub async fn ask(words: &[String]) -> Result<()> {
    let url = required(words, "--fetch-url")?;
    let (trusted, credentials) = (required(words, "--server-trust-bundle")?, required(words, "--client-cred-bundle")?);
    loop {
        match timeout(LIMIT, fetch(&url, &trusted, &credentials)).await {
            Ok(Ok(body)) => println!("Got response body: {body}"),
            Ok(Err(error)) => println!("{error:#}"),
            Err(_) => println!("no answer in time"),
        }
        sleep(PAUSE).await;
    }
}

async fn fetch(url: &str, trusted: &str, credentials: &str) -> Result<String> {
    let rest = url.strip_prefix("https://").context("not https")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&fs::read(trusted)?) {
        roots.add(authority?)?;
    }
    let own = fs::read(credentials)?;
    let chain = CertificateDer::pem_slice_iter(&own).collect::<Result<Vec<_>, _>>()?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&own)?)?;
    let stream = TcpStream::connect((host, 443)).await.with_context(|| format!("connect to {host}"))?;
    let name = ServerName::try_from(host.to_owned())?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}
