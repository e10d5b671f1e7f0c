//! One request message in, one response message out: the calls that come thousands of times a second.
//!
//! The library's generic path boxes each call several times and gives it a buffer of 8 KiB. Here
//! a message is decoded from the bytes as they arrived and encoded into a buffer of its size. The
//! rules are gRPC's: a prefix of a flag and a length, the status in the trailers, and a status
//! alone as headers if there is no message.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use prost::Message;
use tonic::{Code, Status};

use crate::limits::GRPC_DECODE_BYTES_MAX;

const PREFIX_BYTES: usize = 5;
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// What is sent back: a message with its trailers, or whatever the library makes.
#[derive(Default)]
pub(crate) enum Answer {
    Message(Option<Bytes>),
    Trailers,
    #[default]
    Ended,
    Library(tonic::body::Body),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match this {
            Answer::Message(message) => {
                let message = message.take().unwrap_or_default();
                *this = Answer::Trailers;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Answer::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, OK);
                *this = Answer::Ended;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Answer::Ended => Poll::Ready(None),
            Answer::Library(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Ended => true,
            Answer::Library(body) => body.is_end_stream(),
            Answer::Message(_) | Answer::Trailers => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // Exactly known it would become a header, which nobody needs.
            Answer::Message(_) | Answer::Trailers => SizeHint::default(),
            Answer::Ended => SizeHint::with_exact(0),
            Answer::Library(body) => body.size_hint(),
        }
    }
}

/// The message of a request.
pub(crate) async fn receive<M, B>(mut body: B) -> Result<M, Status>
where
    M: Message + Default,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::new(Code::Cancelled, error.to_string()))?;
        let Ok(data) = frame.into_data() else { break };
        if data.is_empty() {
            // Some clients end their side with one.
            continue;
        }
        if whole.is_empty() && parts.is_empty() {
            // Nearly always the only part.
            whole = data;
            continue;
        }
        if parts.is_empty() {
            parts.extend_from_slice(&std::mem::take(&mut whole));
        }
        parts.extend_from_slice(&data);
        if parts.len() > GRPC_DECODE_BYTES_MAX + PREFIX_BYTES {
            return Err(too_large(parts.len() - PREFIX_BYTES));
        }
    }
    let whole = if parts.is_empty() { whole } else { parts.freeze() };
    decode(whole)
}

fn too_large(bytes: usize) -> Status {
    let text = format!("grpc: received message larger than max ({bytes} vs. {GRPC_DECODE_BYTES_MAX})");
    Status::resource_exhausted(text)
}

fn decode<M: Message + Default>(mut bytes: Bytes) -> Result<M, Status> {
    if bytes.len() < PREFIX_BYTES {
        return Err(Status::internal("the request has no message"));
    }
    let compressed = bytes.get_u8();
    let length = bytes.get_u32() as usize;
    if compressed != 0 {
        return Err(Status::unimplemented("messages must not be compressed"));
    }
    if length > GRPC_DECODE_BYTES_MAX {
        return Err(too_large(length));
    }
    if length != bytes.len() {
        return Err(Status::internal(format!("a message of {length} bytes came with {}", bytes.len())));
    }
    M::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

/// The response of a call that ended like this.
pub(crate) fn respond(result: Result<impl Message, Status>) -> Result<Response<Answer>, Infallible> {
    let message = match result.and_then(|message| encode(&message)) {
        Ok(message) => message,
        Err(status) => return refuse(status),
    };
    let mut response = Response::new(Answer::Message(Some(message)));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    Ok(response)
}

/// The response of a call that failed.
pub(crate) fn refuse(status: Status) -> Result<Response<Answer>, Infallible> {
    Ok(status.into_http())
}

fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::out_of_range("the answer is larger than 4 GiB"))?;
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;
    use crate::grpc::pb::etcdserverpb::PutRequest;

    fn put() -> PutRequest {
        PutRequest { key: "k".into(), value: vec![7; 3000].into(), ..Default::default() }
    }

    async fn code(bytes: &[u8]) -> Code {
        receive::<PutRequest, _>(Full::new(Bytes::copy_from_slice(bytes))).await.unwrap_err().code()
    }

    #[tokio::test]
    async fn a_message_is_read_whole_or_in_parts() {
        let bytes = encode(&put()).unwrap();
        assert_eq!(receive::<PutRequest, _>(Full::new(bytes.clone())).await.unwrap(), put());
        for step in [1, 4, 1000] {
            let parts: Vec<_> =
                bytes.chunks(step).map(|part| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(part)))).collect();
            let body = StreamBody::new(futures_util::stream::iter(parts));
            assert_eq!(receive::<PutRequest, _>(body).await.unwrap(), put(), "in steps of {step}");
        }
    }

    #[tokio::test]
    async fn what_is_not_one_plain_message_is_refused() {
        let bytes = encode(&put()).unwrap();
        assert_eq!(code(&[]).await, Code::Internal);
        assert_eq!(code(&bytes[..bytes.len() - 1]).await, Code::Internal);
        assert_eq!(code(&[&bytes[..], &bytes[..]].concat()).await, Code::Internal);
        assert_eq!(code(&[0, 0, 0, 0, 2, 0xff, 0xff]).await, Code::Internal);
        assert_eq!(code(&[1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(code(&[0, 0xff, 0, 0, 0]).await, Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn an_answer_is_a_message_and_trailers_or_a_status_alone() {
        let answer = respond(Ok(put())).unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[Status::GRPC_STATUS], "0");
        assert_eq!(collected.to_bytes(), encode(&put()).unwrap());
        let refused =
            respond(Err::<PutRequest, _>(Status::not_found("etcdserver: requested lease not found"))).unwrap();
        assert_eq!(refused.headers()[Status::GRPC_STATUS], "5");
        assert!(refused.body().is_end_stream());
    }
}
