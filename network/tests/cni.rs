//! The CNI plugin on a real kernel: bridge, veth pairs, published ports and
//! their removal, in unnamed network namespaces that vanish with the test.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use skiff_host::{
    link::{Mac, VethEnd},
    netlink::Netlink,
    netns::Netns,
    nftables::Nft,
};
use skiff_network::cni::{ErrorCode, config::Environment, plugin};

const DEADLINE: Duration = Duration::from_secs(5);

fn environment(command: &str, container: &str, netns: &Netns) -> Environment {
    Environment {
        command: command.to_owned(),
        container_id: container.to_owned(),
        netns: netns.path(),
        interface: "eth0".to_owned(),
    }
}

fn conf(dir: &Path, subnets: &[&str], ports: Value) -> Vec<u8> {
    json!({
        "cniVersion": "1.0.0", "name": "skiff", "type": "skiff-cni", "bridge": "cni0", "subnets": subnets,
        "mtu": 1400, "dataDir": dir, "runtimeConfig": {"portMappings": ports},
    })
    .to_string()
    .into_bytes()
}

fn address_of(result: &str) -> IpAddr {
    let result: Value = serde_json::from_str(result).unwrap();
    result["ips"][0]["address"].as_str().unwrap().split_once('/').unwrap().0.parse().unwrap()
}

/// Answers every connection with the peer's address, until the listener's namespace thread ends.
fn serve_once(listener: TcpListener) -> SocketAddr {
    let (mut stream, peer) = listener.accept().unwrap();
    stream.write_all(peer.to_string().as_bytes()).unwrap();
    peer
}

/// Connects and returns the address the server saw.
fn ask(target: SocketAddr) -> std::io::Result<SocketAddr> {
    let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.parse().unwrap())
}

/// Serves one connection in `server` while `client` asks from its namespace.
fn exchange(server: &Netns, listen: &str, client: &Netns, target: &str) -> SocketAddr {
    let listen: SocketAddr = listen.parse().unwrap();
    let target: SocketAddr = target.parse().unwrap();
    let listener = server.run(|| TcpListener::bind(listen).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve_once(listener));
        let seen = client.run(|| ask(target)).unwrap().unwrap_or_else(|error| panic!("connect {target}: {error}"));
        served.join().unwrap();
        seen
    })
}

/// A namespace beside the host, as another machine on its network would be.
fn outside(host: &Netns) -> Netns {
    let outside = Netns::create().unwrap();
    host.run(|| {
        let mut netlink = Netlink::route().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_link_up(lo).unwrap();
        let (here, there) = (VethEnd { name: "uplink", mac: None }, VethEnd { name: "eth0", mac: Some(Mac([2; 6])) });
        netlink.add_veth(here, there, &outside, None, 1500).unwrap();
        let uplink = netlink.link("uplink").unwrap().unwrap().index;
        netlink.add_address(uplink, "192.0.2.1/24".parse().unwrap()).unwrap();
    })
    .unwrap();
    outside
        .run(|| {
            let mut netlink = Netlink::route().unwrap();
            let link = netlink.link("eth0").unwrap().unwrap().index;
            netlink.set_link_up(link).unwrap();
            netlink.add_address(link, "192.0.2.2/24".parse().unwrap()).unwrap();
        })
        .unwrap();
    outside
}

#[test]
fn pods_reach_each_other_and_the_host_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (host, a, b) = (Netns::create().unwrap(), Netns::create().unwrap(), Netns::create().unwrap());
    let input = conf(dir.path(), &["10.42.7.0/24", "fd00:42:7::/64"], json!([]));
    let add =
        |id: &str, pod: &Netns| host.run(|| plugin::execute(&environment("ADD", id, pod), &input).unwrap()).unwrap();
    let (first, second) = (address_of(&add("aaa", &a)), address_of(&add("bbb", &b)));
    assert_eq!((first.to_string(), second.to_string()), ("10.42.7.2".into(), "10.42.7.3".into()));

    assert_eq!(exchange(&b, "10.42.7.3:80", &a, "10.42.7.3:80").ip(), first, "pod to pod keeps its address");
    assert_eq!(exchange(&b, "[fd00:42:7::3]:80", &a, "[fd00:42:7::3]:80").ip().to_string(), "fd00:42:7::2");
    assert_eq!(exchange(&a, "10.42.7.2:80", &host, "10.42.7.2:80").ip().to_string(), "10.42.7.1");
    assert_eq!(exchange(&host, "10.42.7.1:80", &a, "10.42.7.1:80").ip(), first);
    assert_eq!(exchange(&a, "127.0.0.1:80", &a, "127.0.0.1:80").ip().to_string(), "127.0.0.1");

    host.run(|| {
        plugin::execute(&environment("CHECK", "aaa", &a), &input).unwrap();
        for _ in 0..2 {
            plugin::execute(&environment("DEL", "aaa", &a), &input).unwrap();
            plugin::execute(&environment("DEL", "bbb", &b), &input).unwrap();
        }
        let error = plugin::execute(&environment("CHECK", "aaa", &a), &input).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownContainer);
        let names: Vec<String> = Netlink::route().unwrap().links().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo", "cni0"]);
    })
    .unwrap();
    let leases: Value = serde_json::from_slice(&std::fs::read(dir.path().join("skiff/leases.json")).unwrap()).unwrap();
    assert_eq!(leases["leases"], json!({}));
}

#[test]
fn published_ports_answer_from_outside_from_the_host_and_from_the_pod_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (host, pod) = (Netns::create().unwrap(), Netns::create().unwrap());
    let outside = outside(&host);
    // As containerd writes it.
    let ports = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}]);
    let input = conf(dir.path(), &["10.42.7.0/24"], ports);
    host.run(|| plugin::execute(&environment("ADD", "aaa", &pod), &input).unwrap()).unwrap();

    assert_eq!(exchange(&pod, "0.0.0.0:80", &outside, "192.0.2.1:8080").ip().to_string(), "192.0.2.2");
    exchange(&pod, "0.0.0.0:80", &host, "192.0.2.1:8080");
    exchange(&pod, "0.0.0.0:80", &host, "127.0.0.1:8080");
    exchange(&pod, "0.0.0.0:80", &pod, "192.0.2.1:8080");

    host.run(|| {
        plugin::execute(&environment("DEL", "aaa", &pod), &input).unwrap();
        assert!(!Nft::default().output(&["list", "ruleset"]).unwrap().contains("elements"));
    })
    .unwrap();
    outside.run(|| assert!(ask("192.0.2.1:8080".parse().unwrap()).is_err())).unwrap();
}

#[test]
fn the_same_port_on_different_addresses_and_protocols_leads_to_different_pods() {
    let dir = tempfile::tempdir().unwrap();
    let host = Netns::create().unwrap();
    let outside = outside(&host);
    let pods: Vec<Netns> = (0..3).map(|_| Netns::create().unwrap()).collect();
    let mappings = [("127.0.0.1", "TCP"), ("192.0.2.1", "TCP"), ("192.0.2.1", "UDP")];
    let inputs: Vec<Vec<u8>> = mappings
        .iter()
        .map(|(ip, protocol)| {
            let ports = json!([{"hostPort": 5432, "containerPort": 80, "protocol": protocol, "hostIP": ip}]);
            conf(dir.path(), &["10.42.7.0/24"], ports)
        })
        .collect();
    for (index, (pod, input)) in pods.iter().zip(&inputs).enumerate() {
        let environment = environment("ADD", &format!("c{index}"), pod);
        host.run(|| plugin::execute(&environment, input).unwrap()).unwrap();
    }
    // Each exchange would time out if another pod were asked.
    exchange(&pods[0], "10.42.7.2:80", &host, "127.0.0.1:5432");
    exchange(&pods[1], "10.42.7.3:80", &host, "192.0.2.1:5432");
    exchange(&pods[1], "10.42.7.3:80", &outside, "192.0.2.1:5432");
    let server = pods[2].run(|| std::net::UdpSocket::bind("10.42.7.4:80").unwrap()).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let client = outside.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    client.send_to(b"x", "192.0.2.1:5432").unwrap();
    let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(peer.ip().to_string(), "192.0.2.2");
}

#[test]
fn a_failed_add_takes_back_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let (host, pod) = (Netns::create().unwrap(), Netns::create().unwrap());
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "no-such-protocol"}]);
    let input = conf(dir.path(), &["10.42.7.0/24"], ports);
    host.run(|| {
        let error = plugin::execute(&environment("ADD", "aaa", &pod), &input).unwrap_err();
        assert_eq!(error.code, ErrorCode::Kernel);
        let links = Netlink::route().unwrap().links().unwrap();
        assert!(links.iter().all(|link| !link.name.starts_with("veth")), "{links:?}");
    })
    .unwrap();
    let error = host.run(|| {
        let gone = Environment { netns: "/nonexistent/netns".into(), ..environment("ADD", "ccc", &pod) };
        plugin::execute(&gone, &input).unwrap_err()
    });
    assert!(error.unwrap().to_string().contains("/nonexistent/netns"));
}

#[test]
fn loopback_configurations_bring_loopback_up() {
    let pod = Netns::create().unwrap();
    let input = br#"{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}"#;
    let result = plugin::execute(&environment("ADD", "aaa", &pod), input).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&result).unwrap()["interfaces"][0]["name"], "lo");
    assert!(pod.run(|| Netlink::route().unwrap().link("lo").unwrap().unwrap().is_up).unwrap());
}
