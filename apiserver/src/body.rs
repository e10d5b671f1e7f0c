//! Response bodies: one buffer, a spliced list, a stream; compressed when asked.

use std::{io::Write, sync::Arc};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use skiff_api::Status;

use crate::limits;

/// Every request and response body: frames of bytes, possibly endless.
pub type Body = skiff_client::Body;
/// What a body may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of one buffer.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of a stream of buffers.
pub fn streamed(stream: impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// A response of one buffer.
pub fn response(code: u16, content_type: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_content_type(response.headers_mut(), content_type);
    response
}

pub fn set_content_type(headers: &mut HeaderMap, content_type: &str) {
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
}

/// A failure as JSON.
pub fn failure(status: &Status) -> Response<Body> {
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    let mut response = response(status.code, "application/json", bytes);
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// Parts that are sent one after the other without building the whole: small
/// ones are gathered into frames, so that a list of small objects is not sent
/// in small packets.
pub fn spliced(parts: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    let frames = Gather { parts, held: None };
    streamed(stream::iter(frames.map(Ok)))
}

struct Gather<I> {
    parts: I,
    held: Option<Bytes>,
}

impl<I: Iterator<Item = Bytes>> Iterator for Gather<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let first = self.held.take().or_else(|| self.parts.next())?;
        if first.len() >= limits::FRAME_BYTES {
            return Some(first);
        }
        let mut frame = BytesMut::with_capacity(limits::FRAME_BYTES);
        frame.extend_from_slice(&first);
        for part in self.parts.by_ref() {
            if frame.len() + part.len() > limits::FRAME_BYTES {
                self.held = Some(part);
                break;
            }
            frame.extend_from_slice(&part);
        }
        Some(frame.freeze())
    }
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|coding| {
            let (name, q) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim().eq_ignore_ascii_case("gzip") && q.trim() != "q=0"
        })
    })
}

/// Compresses the body of a response as it goes by.
pub fn gzip(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(header::CONTENT_LENGTH);
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = stream::unfold(Some((body, encoder)), |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(error) = encoder.write_all(&data) {
                        return Some((Err(error.into()), None));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some((Ok(Bytes::from(out)), Some((body, encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((encoder.finish().map(Bytes::from).map_err(Into::into), None)),
            }
        }
    });
    Response::from_parts(parts, streamed(compressed))
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Broken(BodyError),
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read_at_most(mut body: Body, limit: usize) -> Result<Bytes, ReadError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(ReadError::TooLarge(limit));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads a whole request body; 413 when it is too large.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    read_at_most(body, limits::BODY_BYTES_MAX).await.map_err(|error| match error {
        ReadError::TooLarge(limit) => Status::failure(
            skiff_api::Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {limit}"),
        ),
        ReadError::Broken(error) => Status::bad_request(format!("read request body: {error}")),
    })
}

/// Keeps `guard` alive until the body has been sent or dropped.
pub fn guarded<G: Send + Sync + 'static>(response: Response<Body>, guard: Arc<G>) -> Response<Body> {
    response.map(|body| {
        body.map_frame(move |frame| {
            let _ = &guard;
            frame
        })
        .boxed_unsync()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    async fn collect(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn parts_are_gathered_into_frames_and_nothing_is_lost() {
        let parts: Vec<Bytes> = (0..5000).map(|number| Bytes::from(format!("{number},"))).collect();
        let whole: Vec<u8> = parts.concat();
        assert_eq!(collect(spliced(parts.into_iter())).await, whole);
        let large = vec![Bytes::from(vec![b'a'; limits::FRAME_BYTES * 2]), Bytes::from("b")];
        let frames = Gather { parts: large.into_iter(), held: None };
        assert_eq!(frames.count(), 2);
    }

    #[tokio::test]
    async fn gzip_keeps_the_content() {
        let text = "kubernetes ".repeat(10_000);
        let compressed = collect(gzip(response(200, "text/plain", text.clone())).into_body()).await;
        assert!(compressed.len() < text.len() / 10);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
