//! A GET request to a container, for probes and hooks.
//!
//! Certificates are not verified: the answer proves that the container is
//! alive, not who it is. Redirects are followed on the same host only.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls_pki_types::ServerName;
use skiff_client::any_certificate::AnyCertificate;
use tokio::net::TcpStream;

use crate::limits;

const REDIRECTS_MAX: usize = 10;

/// A request to make.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub https: bool,
    pub headers: Vec<(String, String)>,
    pub user_agent: &'static str,
}

impl HttpCheck {
    /// The request of an action, to `ip` unless the action names another host.
    pub fn new(action: &HTTPGetAction, ip: IpAddr, port: u16, user_agent: &'static str) -> HttpCheck {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
        let path = action.path.clone().unwrap_or_default();
        HttpCheck {
            host,
            port,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
            user_agent,
        }
    }
}

/// Makes the request; the status and the start of the body, or why there is no answer.
pub async fn http_get(check: &HttpCheck, timeout: Duration) -> Result<(StatusCode, String), String> {
    let url = format!("{}://{}:{}{}", if check.https { "https" } else { "http" }, check.host, check.port, check.path);
    match tokio::time::timeout(timeout, follow(check.clone())).await {
        Ok(result) => result.map_err(|error| format!("Get \"{url}\": {error}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(mut check: HttpCheck) -> Result<(StatusCode, String), String> {
    for _ in 0..=REDIRECTS_MAX {
        let (status, location, body) = once(&check).await?;
        let target = location.filter(|_| status.is_redirection()).and_then(|text| text.parse::<Uri>().ok());
        let Some(target) = target else { return Ok((status, body)) };
        let same_host = target.host().is_none_or(|host| host == check.host);
        if !same_host {
            return Ok((status, body));
        }
        check.path = target.path_and_query().map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned());
        if target.host().is_some() {
            check.https = target.scheme_str() == Some("https");
            check.port = target.port_u16().unwrap_or(if check.https { 443 } else { 80 });
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

async fn once(check: &HttpCheck) -> Result<(StatusCode, Option<String>, String), String> {
    let stream = TcpStream::connect((check.host.as_str(), check.port))
        .await
        .map_err(|error| format!("dial tcp {}:{}: {error}", check.host, check.port))?;
    if !check.https {
        return exchange(check, TokioIo::new(stream)).await;
    }
    let name = ServerName::try_from(check.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config()?));
    let stream = connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
    exchange(check, TokioIo::new(stream)).await
}

async fn exchange<S>(check: &HttpCheck, stream: S) -> Result<(StatusCode, Option<String>, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let request = request(check)?;
    let answer = async {
        let mut response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(frame) = frame else { break };
            if let Some(data) = frame.data_ref() {
                body.extend_from_slice(data);
            }
            if body.len() >= limits::PROBE_BODY_BYTES_MAX {
                body.truncate(limits::PROBE_BODY_BYTES_MAX);
                break;
            }
        }
        Ok::<_, String>((response.status(), location, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection is driven here and dropped with the answer, so nothing outlives the check.
    tokio::pin!(connection);
    tokio::pin!(answer);
    let mut open = true;
    loop {
        tokio::select! {
            result = &mut answer => return result,
            ended = &mut connection, if open => {
                open = false;
                if let Err(error) = ended {
                    return Err(error.to_string());
                }
            }
        }
    }
}

fn request(check: &HttpCheck) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::builder().uri(&check.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    let host = if check.host.contains(':') { format!("[{}]", check.host) } else { check.host.clone() };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    headers.insert(header::HOST, value(&format!("{host}:{}", check.port))?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(check.user_agent));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, text) in &check.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("bad header name {name:?}"))?;
        // An empty value removes a default header.
        if text.is_empty() && (name == header::ACCEPT || name == header::USER_AGENT) {
            headers.remove(&name);
        } else if name == header::HOST {
            headers.insert(name, value(text)?);
        } else {
            headers.append(name, value(text)?);
        }
    }
    Ok(request)
}

fn client_config() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.dangerous().with_custom_certificate_verifier(AnyCertificate::verifier(&provider)).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn serve(answers: Vec<&'static str>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 2048];
                let _ = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn check(port: u16) -> HttpCheck {
        HttpCheck::new(
            &HTTPGetAction { path: Some("x".into()), ..HTTPGetAction::default() },
            "127.0.0.1".parse().unwrap(),
            port,
            "kube-probe/1.37",
        )
    }

    #[tokio::test]
    async fn local_redirects_are_followed_and_others_are_the_answer() {
        let port = serve(vec![
            "HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 500 Bad\r\ncontent-length: 3\r\n\r\nbad",
        ])
        .await;
        let (status, body) = http_get(&check(port), Duration::from_secs(5)).await.unwrap();
        assert_eq!((status.as_u16(), body.as_str()), (500, "bad"));
        let port =
            serve(vec!["HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n"]).await;
        assert_eq!(http_get(&check(port), Duration::from_secs(5)).await.unwrap().0.as_u16(), 302);
    }

    #[tokio::test]
    async fn silence_and_refusal_are_failures() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(http_get(&check(port), Duration::from_millis(100)).await.unwrap_err().contains("deadline exceeded"));
        drop(listener);
        assert!(http_get(&check(port), Duration::from_secs(5)).await.unwrap_err().contains("dial tcp"));
    }
}
