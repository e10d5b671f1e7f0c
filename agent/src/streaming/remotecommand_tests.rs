//! Exec over websocket against a SPDY runtime in memory that behaves like `cat`.

use std::collections::HashMap;

use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::streaming::channels::Framing;

const FAILURE: &str =
    r#"{"metadata":{},"status":"Failure","message":"command terminated with exit code 3","reason":"NonZeroExitCode"}"#;
const V5: ExecProtocol = ExecProtocol { framing: Framing::Binary, version: 5 };

/// Takes as many streams as wanted, copies stdin to stdout, resizes to stderr or stdout, then fails with exit code 3.
async fn cat(io: DuplexStream, streams_len: usize) {
    let (connection, driver, mut accepted) = Connection::server(io);
    let token = CancellationToken::new();
    let command = async move {
        let mut streams = HashMap::new();
        while streams.len() < streams_len {
            let (headers, stream) = accepted.recv().await.expect("the client opens its streams");
            streams.insert(headers.get("streamtype").expect("a type").to_owned(), stream);
        }
        let mut stdout = streams.remove("stdout").expect("stdout is wanted");
        if let Some(mut resize) = streams.remove("resize") {
            let size = resize.receive.receive().await.expect("a size").expect("no reset");
            stdout.send.send(size).await.expect("sends");
        }
        if let Some(mut stdin) = streams.remove("stdin") {
            while let Some(data) = stdin.receive.receive().await {
                stdout.send.send(data.expect("no reset")).await.expect("sends");
            }
        }
        if let Some(mut stderr) = streams.remove("stderr") {
            stderr.send.send(Bytes::from_static(b"warning")).await.expect("sends");
            stderr.send.finish().await.expect("finishes");
        }
        stdout.send.finish().await.expect("finishes");
        let mut error = streams.remove("error").expect("the error stream is always there");
        error.send.send(Bytes::from_static(FAILURE.as_bytes())).await.expect("sends");
        error.send.finish().await.expect("finishes");
        drop(connection);
        std::future::pending::<()>().await;
    };
    let driving = async {
        // The client may hang up as soon as it has the status.
        let _ = driver.run(&token).await;
        std::future::pending().await
    };
    tokio::select! {
        () = driving => {}
        () = command => {}
    }
}

/// Runs one exec; the client sends `messages` and collects what each channel brings.
async fn exec(protocol: ExecProtocol, wanted: Wanted, messages: Vec<Message>) -> HashMap<u8, Vec<u8>> {
    let streams_len =
        1 + usize::from(wanted.stdin) + usize::from(wanted.stdout) + usize::from(wanted.stderr || wanted.tty);
    let (client, server) = duplex(4096);
    let (near, far) = duplex(4096);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let token = CancellationToken::new();
    let serving = async {
        let mut server = server;
        let result = serve(&mut server, protocol, wanted, near, &token).await;
        crate::streaming::websocket::finish(server).await;
        result
    };
    let using = async {
        for message in messages {
            client.send(message).await.expect("sends");
        }
        let mut received: HashMap<u8, Vec<u8>> = HashMap::new();
        while let Some(Ok(message)) = client.next().await {
            if let Some((channel, data)) = protocol.framing.decode(message) {
                received.entry(channel).or_default().extend_from_slice(&data);
            }
        }
        received
    };
    let work = async { tokio::join!(serving, using) };
    tokio::select! {
        (result, received) = work => {
            result.expect("a clean end");
            received
        }
        () = cat(far, streams_len) => panic!("the runtime ended first"),
    }
}

#[tokio::test]
async fn closing_stdin_with_v5_reaches_the_command_and_its_status_comes_last() {
    let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
    let big = vec![b'x'; 100_000];
    let messages =
        vec![V5.framing.encode(STDIN, b"hello "), V5.framing.encode(STDIN, &big), V5.framing.encode(CLOSE, &[STDIN])];
    let received = exec(V5, wanted, messages).await;
    assert_eq!(received[&STDOUT].len(), 6 + big.len());
    assert_eq!(received[&STDERR], b"warning");
    assert_eq!(received[&ERROR], FAILURE.as_bytes());
}

#[tokio::test]
async fn a_terminal_has_resize_and_no_stderr() {
    let wanted = Wanted { stdin: false, stdout: true, stderr: true, tty: true };
    let protocol = ExecProtocol { framing: Framing::Base64, version: 4 };
    let size = br#"{"Width":80,"Height":24}"#;
    let received = exec(protocol, wanted, vec![protocol.framing.encode(RESIZE, size)]).await;
    assert_eq!(received[&STDOUT], size);
    assert!(!received.contains_key(&STDERR));
    assert_eq!(received[&ERROR], FAILURE.as_bytes());
}

#[tokio::test]
async fn the_oldest_protocol_gets_the_message_of_a_failure_as_text() {
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let protocol = ExecProtocol { framing: Framing::Binary, version: 1 };
    let received = exec(protocol, wanted, vec![]).await;
    assert_eq!(received[&ERROR], b"command terminated with exit code 3");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_session() {
    let (client, server) = duplex(4096);
    let (near, far) = duplex(4096);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let token = CancellationToken::new();
    let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
    let leaving = async {
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.next().await.expect("the first message").expect("no error");
        drop(client);
    };
    let work = async { tokio::join!(serve(server, V5, wanted, near, &token), leaving) };
    tokio::select! {
        (result, ()) = work => assert!(result.is_err(), "the websocket broke off without a close"),
        () = cat(far, 3) => panic!("the runtime ended first"),
    }
}

#[test]
fn a_missing_status_is_replaced_and_success_is_silent_for_old_clients() {
    let text = final_error(V5, b"").expect("a status");
    assert!(String::from_utf8_lossy(&text).contains("InternalError"));
    let old = ExecProtocol { framing: Framing::Binary, version: 1 };
    assert_eq!(final_error(old, br#"{"status":"Success"}"#), None);
    assert_eq!(final_error(old, b"plain"), Some(b"plain".to_vec()));
    assert_eq!(final_error(old, b""), None);
}
