//! The DNS server asked by `dig`, over UDP and TCP, in a namespace of its own;
//! its upstream is a second server block of the same process.

mod support;

use std::{process::Command, sync::Arc, thread::JoinHandle};

use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Revision};
use skiff_client::{Snapshot, StoreWriter};
use skiff_host::netns::Netns;
use skiff_network::dns::run::{RunConfig, run};
use support::{eventually, host};
use tokio_util::sync::CancellationToken;

const COREFILE: &str = r#"
.:53 {
    errors
    health
    ready
    rewrite name exact alias.example.com web.default.svc.cluster.local
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    hosts NODEHOSTS {
      ttl 60
      reload 15s
      fallthrough
    }
    prometheus :9153
    cache 30
    loop
    reload
    loadbalance
    import CUSTOM/*.override
    forward . 127.0.0.1:5353
}
.:5353 {
    template IN A upstream.test {
      match ^(?P<n>[0-9]+)\.upstream\.test\.$
      answer "{{ .Name }} 300 IN A 192.0.2.{{ .Group.n }}"
    }
    template IN TXT upstream.test {
      match ^big\.upstream\.test\.$
      answer "{{ .Name }} 300 IN TXT BIGTEXT"
    }
    template IN ANY incluster.test {
      answer "{{ .Name }} 300 IN CNAME web.default.svc.cluster.local"
    }
    template ANY ANY . {
      match ^missing\.
      rcode NXDOMAIN
      authority "upstream.test 60 IN SOA ns.upstream.test host.upstream.test 1 7200 1800 86400 60"
    }
}
import CUSTOM/*.server
"#;

struct Cluster {
    netns: Arc<Netns>,
    dir: tempfile::TempDir,
    services: StoreWriter,
    slices: StoreWriter,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::from_value(&value).unwrap())
}

fn service(name: &str, revision: u64, spec: Value) -> Arc<Object> {
    object(json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"name": name, "namespace": "default", "resourceVersion": revision.to_string()}}))
}

fn slice(service: &str, revision: u64, endpoints: Value) -> Arc<Object> {
    object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "default", "resourceVersion": revision.to_string(),
            "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
}

impl Cluster {
    fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("custom")).unwrap();
        std::fs::write(dir.path().join("NodeHosts"), "192.0.2.10 node-1\n").unwrap();
        let corefile = COREFILE
            .replace("NODEHOSTS", dir.path().join("NodeHosts").to_str().unwrap())
            .replace("CUSTOM", dir.path().join("custom").to_str().unwrap())
            .replace("BIGTEXT", &format!("\\\"{}\\\" ", "x".repeat(200)).repeat(8));
        std::fs::write(dir.path().join("Corefile"), corefile).unwrap();
        let (services, service_store) = skiff_client::store::store(&[]);
        let (slices, slice_store) = skiff_client::store::store(&[]);
        let (namespaces, namespace_store) = skiff_client::store::store(&[]);
        let web = json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "fd00::9"],
            "ports": [{"name": "http", "port": 80}]});
        let all = vec![
            service("web", 1, web),
            service("set", 2, json!({"clusterIP": "None"})),
            service("ext", 3, json!({"type": "ExternalName", "externalName": "7.upstream.test"})),
        ];
        services.replace(all, Revision(3));
        let endpoints = json!([{"addresses": ["10.42.0.5"], "hostname": "set-0"}, {"addresses": ["10.42.0.6"]}]);
        slices.replace(vec![slice("set", 4, endpoints)], Revision(4));
        let default =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "resourceVersion": "1"}});
        namespaces.replace(vec![object(default)], Revision(1));
        let snapshot = Snapshot::new();
        snapshot.insert(GroupResource::of::<Service>(), service_store);
        snapshot.insert(GroupResource::of::<EndpointSlice>(), slice_store);
        snapshot.insert(GroupResource::of::<Namespace>(), namespace_store);
        let config = RunConfig { corefile: dir.path().join("Corefile"), port: 53, snapshot: Some(snapshot) };
        let stop = CancellationToken::new();
        let (netns, token) = (Arc::new(host()), stop.clone());
        let inside = Arc::clone(&netns);
        let thread = std::thread::spawn(move || {
            inside
                .run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(run(config, token)).unwrap();
                })
                .unwrap();
        });
        let cluster = Cluster { netns, dir, services, slices, stop, thread: Some(thread) };
        eventually("readiness", || cluster.http("8181/ready").filter(|text| text == "OK"));
        cluster
    }

    fn http(&self, target: &str) -> Option<String> {
        use std::io::{Read, Write};
        let (port, path) = target.split_once('/').unwrap();
        self.netns
            .run(|| {
                let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
                let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).ok()?;
                let mut text = String::new();
                stream.read_to_string(&mut text).ok()?;
                let (head, body) = text.split_once("\r\n\r\n")?;
                head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
            })
            .unwrap()
    }

    fn dig(&self, arguments: &str) -> String {
        let output = self
            .netns
            .run(|| {
                let mut command = Command::new("dig");
                command.args(["@127.0.0.1", "+time=3", "+tries=1"]).args(arguments.split(' '));
                command.output().unwrap()
            })
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The records of the answer, sorted, or the response code if there are none.
    fn short(&self, arguments: &str) -> String {
        let mut lines: Vec<String> = self.dig(&format!("{arguments} +short")).lines().map(str::to_owned).collect();
        if lines.is_empty() {
            let full = self.dig(arguments);
            let code = full.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
            let soa = full.contains("\tSOA\t");
            return format!("{} soa={soa}", code.unwrap_or("no answer"));
        }
        lines.sort();
        lines.join(" | ")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn dig_gets_what_the_specification_says() {
    let cluster = Cluster::new();
    let battery = [
        ("web.default.svc.cluster.local A", "10.43.0.9"),
        ("WEB.Default.svc.cluster.local AAAA", "fd00::9"),
        ("web.default.svc.cluster.local MX", "NOERROR soa=true"),
        ("_http._tcp.web.default.svc.cluster.local SRV", "0 100 80 web.default.svc.cluster.local."),
        ("set.default.svc.cluster.local A", "10.42.0.5 | 10.42.0.6"),
        ("set-0.set.default.svc.cluster.local A", "10.42.0.5"),
        ("10-42-0-6.set.default.svc.cluster.local A", "10.42.0.6"),
        (
            "_http._tcp.set.default.svc.cluster.local SRV",
            "0 50 8080 10-42-0-6.set.default.svc.cluster.local. | 0 50 8080 set-0.set.default.svc.cluster.local.",
        ),
        ("ext.default.svc.cluster.local A", "192.0.2.7 | 7.upstream.test."),
        ("ext.default.svc.cluster.local CNAME", "7.upstream.test."),
        ("nope.default.svc.cluster.local A", "NXDOMAIN soa=true"),
        ("default.svc.cluster.local A", "NOERROR soa=true"),
        ("nope.svc.cluster.local A", "NXDOMAIN soa=true"),
        ("1-2-3-4.default.pod.cluster.local A", "1.2.3.4"),
        ("dns-version.cluster.local TXT", "\"1.1.0\""),
        ("-x 10.43.0.9", "web.default.svc.cluster.local."),
        ("-x 10.42.0.5", "set-0.set.default.svc.cluster.local."),
        ("node-1 A", "192.0.2.10"),
        ("-x 192.0.2.10", "node-1."),
        ("8.upstream.test A", "192.0.2.8"),
        ("missing.example A", "NXDOMAIN soa=true"),
        ("alias.example.com A", "10.43.0.9"),
        ("x.incluster.test A", "10.43.0.9 | web.default.svc.cluster.local."),
        ("web.default.svc.cluster.local CH A", "REFUSED soa=false"),
    ];
    for (question, expected) in battery {
        assert_eq!(cluster.short(question), expected, "{question}");
        assert_eq!(cluster.short(&format!("{question} +tcp")), expected, "{question} over TCP");
        assert_eq!(cluster.short(&format!("{question} +noedns")), expected, "{question} without EDNS");
    }
    let alias = cluster.dig("alias.example.com A");
    assert!(alias.contains("alias.example.com.\t"), "the answer is for the name asked: {alias}");
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let cluster = Cluster::new();
    let cut = cluster.dig("big.upstream.test TXT +ignore +bufsize=512");
    assert!(cut.contains(" tc "), "{cut}");
    let whole = cluster.dig("big.upstream.test TXT");
    assert_eq!(whole.matches(&"x".repeat(200)).count(), 8, "{whole}");
    assert!(cluster.dig("web.default.svc.cluster.local A +edns=1 +noednsneg").contains("BADVERS"));
}

#[test]
fn changes_of_the_cluster_and_of_the_files_show_at_once() {
    let cluster = Cluster::new();
    assert_eq!(cluster.short("new.default.svc.cluster.local A"), "NXDOMAIN soa=true");
    cluster.services.apply(service("new", 10, json!({"clusterIP": "10.43.0.77", "clusterIPs": ["10.43.0.77"]})));
    eventually("the new service", || (cluster.short("new.default.svc.cluster.local A") == "10.43.0.77").then_some(()));
    cluster.slices.apply(slice("set", 11, json!([{"addresses": ["10.42.0.9"]}])));
    eventually("the new endpoint", || (cluster.short("set.default.svc.cluster.local A") == "10.42.0.9").then_some(()));
    assert!(!cluster.short("-x 10.42.0.5").contains("set-0"), "the old endpoint has no name any more");
    let last = cluster.services.reader().get("default", "new").unwrap();
    cluster.services.delete(last);
    eventually("no service", || cluster.short("new.default.svc.cluster.local A").starts_with("NXDOMAIN").then_some(()));

    std::fs::write(cluster.dir.path().join("NodeHosts"), "192.0.2.11 node-2\n").unwrap();
    eventually("the new host", || (cluster.short("node-2 A") == "192.0.2.11").then_some(()));
    let custom = "extra.test:53 {\n  hosts {\n    192.0.2.99 a.extra.test\n  }\n}\n";
    std::fs::write(cluster.dir.path().join("custom/extra.server"), custom).unwrap();
    eventually("the new zone", || (cluster.short("a.extra.test A") == "192.0.2.99").then_some(()));
    std::fs::write(cluster.dir.path().join("custom/bad.server"), "nonsense {\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(cluster.short("a.extra.test A"), "192.0.2.99", "a broken configuration changes nothing");
}

#[test]
fn answers_are_counted_and_cached() {
    let cluster = Cluster::new();
    assert_eq!(cluster.http("8080/health").as_deref(), Some("OK"));
    for _ in 0..3 {
        assert_eq!(cluster.short("9.upstream.test A"), "192.0.2.9");
        cluster.short("web.default.svc.cluster.local A");
    }
    let metrics = cluster.http("9153/metrics").unwrap();
    assert!(metrics.contains("coredns_cache_hits_total{server=\"dns://:53\",zones=\".\",view=\"\"} 2\n"), "{metrics}");
    assert!(metrics.contains("proto=\"udp\",family=\"1\",type=\"A\"} 6\n"), "{metrics}");
    assert!(metrics.contains("rcode=\"NOERROR\"} 6\n"), "{metrics}");
}
