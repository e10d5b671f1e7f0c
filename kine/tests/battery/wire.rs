//! What only the wire shows: codes, watch ids, fragments, progress, the other services.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::auth_client::AuthClient;
use skiff_kine::grpc::pb::etcdserverpb::cluster_client::ClusterClient;
use skiff_kine::grpc::pb::etcdserverpb::kv_client::KvClient;
use skiff_kine::grpc::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use skiff_kine::grpc::pb::etcdserverpb::watch_client::WatchClient;
use skiff_kine::grpc::pb::health::health_client::HealthClient;
use skiff_kine::grpc::pb::health::{HealthCheckRequest, health_check_response::ServingStatus};
use skiff_kine::grpc::{TlsOptions, serve_tcp};
use skiff_kine::{Revision, Store, StoreOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Streaming};

use crate::grpc::{Remote, real_etcd, sqlite};
use crate::target::Target;

struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(remote: &Remote, first: pb::WatchCreateRequest) -> Stream {
        let (requests, stream) = mpsc::channel(16);
        let union = pb::watch_request::RequestUnion::CreateRequest(first);
        requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
        let mut client = WatchClient::new(remote.channel.clone()).max_decoding_message_size(64 << 20);
        let responses = client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Stream { requests, responses }
    }

    async fn send(&self, union: pb::watch_request::RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    async fn create(&self, create: pb::WatchCreateRequest) {
        self.send(pb::watch_request::RequestUnion::CreateRequest(create)).await;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = timeout(Duration::from_secs(60), self.responses.message());
        next.await.expect("a response in time").unwrap().expect("the stream goes on")
    }
}

fn watch(key: &'static str, watch_id: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), watch_id, ..Default::default() }
}

fn range(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

async fn watch_ids(remote: Remote) {
    let mut stream = Stream::open(&remote, watch("a", 0)).await;
    let first = stream.next().await;
    assert_eq!((first.created, first.watch_id, first.canceled), (true, 0, false));
    stream.create(watch("b", 0)).await;
    assert_eq!(stream.next().await.watch_id, 1);
    stream.create(watch("c", 7)).await;
    assert_eq!(stream.next().await.watch_id, 7);
    stream.create(watch("d", 7)).await;
    let refused = stream.next().await;
    assert_eq!((refused.created, refused.canceled, refused.watch_id), (true, true, -1));
    assert_eq!(refused.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    let empty = pb::WatchCreateRequest { range_end: "a".into(), ..watch("b", 0) };
    stream.create(empty).await;
    let refused = stream.next().await;
    assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");

    remote.put("c", "1").await;
    let events = stream.next().await;
    assert_eq!((events.watch_id, events.events.len()), (7, 1));
    let cancel = pb::WatchCancelRequest { watch_id: 7 };
    stream.send(pb::watch_request::RequestUnion::CancelRequest(cancel)).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (7, true, 0));
    remote.put("c", "2").await;
    remote.put("b", "1").await;
    let events = stream.next().await;
    assert_eq!(events.watch_id, 1, "nothing more from the cancelled one");
}

async fn progress(remote: Remote) {
    let mut stream = Stream::open(&remote, watch("a", 0)).await;
    assert!(stream.next().await.created);
    stream.create(watch("b", 0)).await;
    assert!(stream.next().await.created);
    remote.put("a", "1").await;
    assert_eq!(stream.next().await.events.len(), 1);
    let revision = remote.put("other", "1").await;
    stream.send(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let response = stream.next().await;
    assert_eq!((response.watch_id, response.events.len()), (-1, 0));
    assert_eq!(response.header.unwrap().revision, revision.as_i64());
}

async fn fragments(remote: Remote) {
    let value = "v".repeat(100_000);
    for i in 0..40 {
        remote.put(&format!("k{i:02}"), &value).await;
    }
    let create = pb::WatchCreateRequest {
        range_end: "l".into(),
        start_revision: 2,
        fragment: true,
        prev_kv: true,
        ..watch("k", 0)
    };
    let mut stream = Stream::open(&remote, create).await;
    assert!(stream.next().await.created);
    let (mut keys, mut fragments) = (Vec::new(), 0);
    while keys.len() < 40 {
        let response = stream.next().await;
        fragments += usize::from(response.fragment);
        keys.extend(response.events.into_iter().map(|event| event.kv.unwrap().key));
    }
    assert!(fragments > 0);
    assert_eq!(keys, (0..40).map(|i| format!("k{i:02}")).collect::<Vec<_>>());
}

async fn codes(remote: Remote) {
    let mut kv = KvClient::new(remote.channel.clone());
    let code = |result: Result<tonic::Response<_>, tonic::Status>| result.unwrap_err().code();
    assert_eq!(code(kv.range(range("")).await.map(|r| r.map(|_| ()))), Code::InvalidArgument);
    let future = pb::RangeRequest { revision: 99, ..range("a") };
    assert_eq!(code(kv.range(future).await.map(|r| r.map(|_| ()))), Code::OutOfRange);
    let leased = pb::PutRequest { key: "a".into(), lease: 9, ..Default::default() };
    assert_eq!(code(kv.put(leased).await.map(|r| r.map(|_| ()))), Code::NotFound);
    let large = pb::PutRequest { key: "a".into(), value: vec![0; 1_600_000].into(), ..Default::default() };
    let error = kv.put(large).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let mut auth = AuthClient::new(remote.channel.clone());
    let login = pb::AuthenticateRequest { name: "root".into(), password: "x".into() };
    let error = auth.authenticate(login).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "etcdserver: authentication is not enabled");
}

async fn other_services(remote: Remote) {
    let revision = remote.put("a", "1").await;
    let mut maintenance = MaintenanceClient::new(remote.channel.clone());
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((Revision::from_i64(header.revision), status.leader), (revision, header.member_id));
    assert!(status.db_size > 0 && status.db_size_in_use <= status.db_size && status.errors.is_empty());
    assert!(status.version.starts_with("3."));
    let alarms = maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
    assert!(alarms.alarms.is_empty());
    let mut hash = async || maintenance.hash_kv(pb::HashKvRequest::default()).await.unwrap().into_inner();
    let before = hash().await;
    assert_eq!(before.hash, hash().await.hash);
    remote.put("a", "2").await;
    assert_ne!(before.hash, hash().await.hash);
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    let mut cluster = ClusterClient::new(remote.channel.clone());
    let members = cluster.member_list(pb::MemberListRequest::default()).await.unwrap().into_inner();
    assert_eq!(members.members.len(), 1);
    assert_eq!(members.members[0].id, header.member_id);
    let mut health = HealthClient::new(remote.channel.clone());
    let check = HealthCheckRequest { service: String::new() };
    let answer = health.check(check).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

macro_rules! on_both {
    ($($case:ident),*) => {
        mod ours { $(#[tokio::test] async fn $case() { super::$case(super::sqlite().await).await })* }
        mod etcds { $(#[tokio::test] async fn $case() { super::$case(super::real_etcd().await).await })* }
    };
}

on_both!(watch_ids, progress, fragments, codes, other_services);

#[tokio::test]
async fn the_socket_is_for_its_owner_only() {
    let remote = sqlite().await;
    let path = remote.endpoint.strip_prefix("unix://").unwrap();
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_snapshot_counts_down_to_its_checksum() {
    for remote in [sqlite().await, crate::grpc::memory().await] {
        for i in 0..20 {
            remote.put(&format!("k{i}"), &"v".repeat(50_000)).await;
        }
        let mut maintenance = MaintenanceClient::new(remote.channel.clone());
        let mut stream = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        let (mut messages, mut bytes) = (0, 0);
        let mut left = None;
        while let Some(message) = stream.message().await.unwrap() {
            messages += 1;
            if left == Some(0) {
                assert_eq!(message.blob.len(), 32, "the checksum is the last message");
            }
            left = Some(message.remaining_bytes);
            bytes += message.blob.len();
        }
        assert!(messages > 4 && bytes > 1_000_000 && bytes % 512 == 32, "{messages} messages, {bytes} bytes");
    }
}

#[tokio::test]
async fn an_answer_over_tcp_does_not_wait_for_an_acknowledgement() {
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let listener = skiff_kine::grpc::Listener::tcp(([127, 0, 0, 1], 0).into(), None).await.unwrap();
    let url = listener.url().to_owned();
    let token = CancellationToken::new();
    let serving = tokio::spawn(listener.serve(store, token.clone()));
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = KvClient::new(channel);
    let mut fastest = Duration::MAX;
    for _ in 0..30 {
        let started = std::time::Instant::now();
        client.range(range("a")).await.unwrap();
        fastest = fastest.min(started.elapsed());
    }
    // The kernel delays an acknowledgement by 40 ms; the machine may be busy, but not for all of them.
    assert!(fastest < Duration::from_millis(30), "{fastest:?}");
    token.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let remote = sqlite().await;
    let mut client = ServerReflectionClient::new(remote.channel.clone());
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("etcdserverpb.KV".into())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = next().await else { panic!() };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"] {
        assert!(names.contains(&format!("etcdserverpb.{name}").as_str()), "{names:?}");
    }
    assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn two_engines_with_the_same_history_have_the_same_hash() {
    let mut hashes = Vec::new();
    for remote in [sqlite().await, crate::grpc::memory().await] {
        for i in 0..50 {
            remote.put(&format!("k{}", i % 7), &i.to_string()).await;
        }
        remote.delete("k3").await;
        remote.compact(Revision(30)).await.unwrap();
        let mut maintenance = MaintenanceClient::new(remote.channel.clone());
        let hash = maintenance.hash_kv(pb::HashKvRequest::default()).await.unwrap().into_inner();
        assert_eq!(hash.compact_revision, 30);
        hashes.push(hash.hash);
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test]
async fn a_client_that_does_not_read_neither_stalls_others_nor_loses_events() {
    let remote = sqlite().await;
    let all = || pb::WatchCreateRequest { range_end: "\0".into(), ..watch("\0", 0) };
    let mut sleeper = Stream::open(&remote, all()).await;
    let mut reader = Stream::open(&remote, all()).await;
    assert!(sleeper.next().await.created && reader.next().await.created);
    let value = "v".repeat(50_000);
    let total = 400;
    for i in 0..total {
        remote.put(&format!("k{}", i % 5), &value).await;
    }
    for stream in [&mut reader, &mut sleeper] {
        let mut seen = Vec::new();
        while seen.len() < total {
            let events = stream.next().await.events;
            seen.extend(events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        }
        assert_eq!(seen, (2..2 + total as i64).collect::<Vec<_>>());
    }
}

/// A certificate authority with one server and one client certificate.
struct Authority {
    ca: String,
    server: TlsOptions,
    client: Identity,
}

fn authority() -> Authority {
    let key = || rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer_key = key();
    let ca_pem = ca.self_signed(&issuer_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, issuer_key);
    let leaf = |names: Vec<String>| {
        let key = key();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (certificate, private) = leaf(vec!["localhost".into(), "127.0.0.1".into()]);
    let server = TlsOptions { certificate, key: private, client_ca: Some(ca_pem.clone()) };
    let (certificate, private) = leaf(vec!["client".into()]);
    Authority { ca: ca_pem, server, client: Identity::from_pem(certificate, private) }
}

#[tokio::test]
async fn tcp_with_mutual_tls_lets_in_who_has_a_certificate_and_nobody_else() {
    let Authority { ca, server, client } = authority();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = Store::open(StoreOptions::memory()).await.unwrap();
    let token = CancellationToken::new();
    let serving = tokio::spawn(serve_tcp(store, address, Some(server), token.clone()));
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    let connect = async |tls: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        let mut kv = KvClient::new(endpoint.connect_lazy());
        for _ in 0..100 {
            match kv.range(range("a")).await {
                Err(error) if error.code() == Code::Unavailable => tokio::time::sleep(Duration::from_millis(20)).await,
                result => return result.map(|_| ()),
            }
        }
        Err(tonic::Status::unavailable("never reached"))
    };
    connect(tls.clone().identity(client)).await.unwrap();
    assert!(connect(tls).await.is_err());
    token.cancel();
    serving.await.unwrap().unwrap();
}
