//! What the tests on a real kernel share: namespaces as hosts, a small API.

#![allow(dead_code)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Revision};
use skiff_client::{Body, Client, ClientError, Snapshot, Store, StoreWriter, Transport};
use skiff_host::{link::VethEnd, netlink::Netlink, netns::Netns};

pub const DEADLINE: Duration = Duration::from_secs(5);

/// Waits until `check` gives something, at most [`DEADLINE`].
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A host: a namespace with loopback up.
pub fn host() -> Netns {
    let host = Netns::create().unwrap();
    host.run(|| {
        let mut netlink = Netlink::route().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_link_up(lo).unwrap();
    })
    .unwrap();
    host
}

/// Joins two hosts by a cable; both ends are called `eth0` or as given.
pub fn cable(a: &Netns, a_link: &str, a_net: &str, b: &Netns, b_link: &str, b_net: &str) {
    let configure = |link: &str, net: &str| {
        let mut netlink = Netlink::route().unwrap();
        let index = netlink.link(link).unwrap().unwrap().index;
        netlink.set_link_up(index).unwrap();
        netlink.add_address(index, net.parse().unwrap()).unwrap();
    };
    a.run(|| {
        let (here, there) = (VethEnd { name: a_link, mac: None }, VethEnd { name: b_link, mac: None });
        Netlink::route().unwrap().add_veth(here, there, b, None, 1500).unwrap();
        configure(a_link, a_net);
    })
    .unwrap();
    b.run(|| configure(b_link, b_net)).unwrap();
}

/// Connects from `client` and returns what the server wrote.
pub fn ask(client: &Netns, target: &str) -> std::io::Result<String> {
    let target: SocketAddr = target.parse().unwrap();
    client
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
        .unwrap()
}

/// Serves `<name> <peer address>` on a TCP port of a namespace for the life of the test process.
pub fn serve_tcp(netns: &Netns, listen: &str, name: &'static str) {
    let listen: SocketAddr = listen.parse().unwrap();
    let listener = netns.run(|| TcpListener::bind(listen).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
}

/// Answers datagrams with a name for the life of the test process.
pub fn serve_udp(netns: &Netns, listen: &str, name: &'static str) {
    let listen: SocketAddr = listen.parse().unwrap();
    let socket = netns.run(|| UdpSocket::bind(listen).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    });
}

/// A tiny API of objects in stores: GET by path, PATCH of node annotations.
pub struct FakeApi {
    writer: StoreWriter,
    objects: Mutex<Vec<(String, Value)>>,
    revision: AtomicU64,
    pub requests: Mutex<Vec<String>>,
}

impl FakeApi {
    /// An API with these nodes, and the store they are in.
    pub fn new(nodes: &[Value]) -> (Arc<FakeApi>, Store) {
        let (writer, store) = skiff_client::store::store(&[]);
        let api = Arc::new(FakeApi {
            writer,
            objects: Mutex::default(),
            revision: AtomicU64::new(1),
            requests: Mutex::default(),
        });
        api.writer.replace(nodes.iter().map(|node| Arc::new(Object::from_value(node).unwrap())).collect(), Revision(1));
        (api, store)
    }

    pub fn add(&self, path: &str, object: Value) {
        self.objects.lock().push((path.to_owned(), object));
    }

    pub fn apply(&self, mut object: Value) {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        self.writer.apply(Arc::new(Object::from_value(&object).unwrap()));
    }

    pub fn delete(&self, name: &str) {
        let last = self.writer.reader().get("", name).unwrap();
        self.writer.delete(last);
    }

    fn patch_node(&self, name: &str, patch: &Value) -> Option<Value> {
        let mut node = self.writer.reader().get("", name)?.value().unwrap();
        for (key, value) in patch["metadata"]["annotations"].as_object()? {
            node["metadata"]["annotations"][key] = value.clone();
        }
        self.apply(node);
        self.writer.reader().get("", name).map(|node| node.value().unwrap())
    }
}

/// A client of the small API; the transport belongs to the test.
pub fn client(api: &Arc<FakeApi>) -> Client {
    Client::new(Arc::new(FakeTransport(Arc::clone(api))), "test")
}

pub fn node_snapshot(store: &Store) -> Snapshot {
    let snapshot = Snapshot::new();
    snapshot.insert(GroupResource::of::<Node>(), store.clone());
    snapshot
}

struct FakeTransport(Arc<FakeApi>);

#[async_trait]
impl Transport for FakeTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ClientError> {
        let path = request.uri().path().to_owned();
        self.0.requests.lock().push(format!("{} {path}", request.method()));
        let answer = match (request.method().as_str(), path.strip_prefix("/api/v1/nodes/")) {
            ("PATCH", Some(name)) => {
                let patch: Value = serde_json::from_slice(request.body()).unwrap();
                self.0.patch_node(name, &patch)
            }
            _ => self.0.objects.lock().iter().find(|(known, _)| *known == path).map(|(_, object)| object.clone()),
        };
        let (code, body) = match answer {
            Some(object) => (200, object),
            None => {
                let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound",
                    "message": "not found", "code": 404});
                (404, status)
            }
        };
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(http::Response::builder().status(code).body(body).unwrap())
    }
}
