//! A watch over a websocket, as browsers read it: one event per message.

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt;
use skiff_api::Status;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::Call;
use crate::{
    body::{self, Body},
    proxy::websocket_log,
};

/// Whether a request wants to become a websocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted)))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Hands the events of a watch to a websocket.
pub(super) fn switch(
    call: &Call<'_>,
    mut request: Request<Body>,
    watch: Response<Body>,
) -> Result<Response<Body>, Status> {
    let is_text = watch.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == crate::wire::JSON);
    if !is_text {
        return Err(Status::bad_request("a watch over a websocket is JSON"));
    }
    let events = lines(watch.into_body());
    websocket_log::switch(&mut request, events, None, text, call.sessions, &call.stop)
}

fn text(event: Bytes) -> Message {
    match Utf8Bytes::try_from(event) {
        Ok(text) => Message::Text(text),
        // JSON is always UTF-8.
        Err(_) => Message::text(""),
    }
}

/// The same stream, cut so that each frame is one line.
fn lines(body: Body) -> Body {
    body::streamed(stream::unfold((body, BytesMut::new()), |(mut body, mut held)| async move {
        loop {
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line = held.split_to(end + 1).freeze();
                return Some((Ok(line.slice(..end)), (body, held)));
            }
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        held.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some((Err(error), (body, held))),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_become_lines() {
        let parts = ["{\"a\"", ":1}\n{\"b\":2}\n", "{\"c\":3}\n"].map(|text| Ok(Bytes::from(text)));
        let mut body = lines(body::streamed(stream::iter(parts)));
        let mut found = Vec::new();
        while let Some(frame) = body.frame().await {
            found.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(found, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }

    #[test]
    fn an_upgrade_is_told_by_its_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", "keep-alive, Upgrade".parse().unwrap());
        assert!(!is_asked_for(&headers));
        headers.insert("upgrade", "WebSocket".parse().unwrap());
        assert!(is_asked_for(&headers));
    }
}
