//! The host's side in a network namespace of the test's own: devices, routes, rules, neighbours
//! and the fail-closed table. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says why it was skipped, and fails by panicking"
)]

use daemon::host::netlink::{Changes, Requests, Route};
use daemon::host::{closed, tun};
use ipsec::selector::{AddressRange, Ports, Selector};
use std::net::IpAddr;
use std::process::Command;

fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn prefix(text: &str) -> AddressRange {
    let (address, length) = text.split_once('/').unwrap();
    AddressRange::prefix(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

fn selector(local: &str, remote: &str) -> Selector {
    Selector {
        local: prefix(local),
        remote: prefix(remote),
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}

#[test]
fn routes_and_rules_are_added_seen_and_removed() {
    in_namespace(|| {
        let mut requests = Requests::open().unwrap();
        let mut changes = Changes::subscribe().unwrap();
        let queues = tun::open("cvhost0", 2).unwrap();
        assert_eq!(queues.len(), 2);
        let index = requests.view().unwrap().interface("cvhost0").unwrap();
        requests.bring_up(index, 1400).unwrap();
        let view = requests.view().unwrap();
        assert!(view.links[&index].up);
        assert_eq!(view.links[&index].mtu, 1400);
        assert!(changes.drain(), "a new device is a change");
        assert!(!changes.drain());

        let route = |destination: &str, length, metric| Route {
            destination: destination.parse::<IpAddr>().unwrap(),
            length,
            gateway: None,
            interface: index,
            source: None,
            metric,
            refuse: false,
            throw: false,
        };
        let wide = route("10.0.0.0", 8, 0);
        let narrow = route("10.77.2.0", 24, 7);
        for route in [&wide, &narrow] {
            requests.add_route(254, route).unwrap();
        }
        let view = requests.view().unwrap();
        assert_eq!(view.route("10.77.2.9".parse().unwrap()), Some(&narrow));
        assert_eq!(view.route("10.78.2.9".parse().unwrap()), Some(&wide));
        assert_eq!(view.route("11.0.0.1".parse().unwrap()), None);

        // Another table is ours alone: not mirrored, but there for the kernel.
        requests.add_route(220, &narrow).unwrap();
        requests.add_rule(220, 220, 0xc0ffee).unwrap();
        requests.add_rule(220, 220, 0xc0ffee).unwrap();
        let rules =
            String::from_utf8(Command::new("ip").args(["rule", "show"]).output().unwrap().stdout)
                .unwrap();
        assert!(rules.contains("not from all fwmark 0xc0ffee lookup 220"), "{rules}");
        assert_eq!(rules.matches("lookup 220").count(), 1);
        requests.remove_rule(220, 220, 0xc0ffee).unwrap();
        requests.remove_rule(220, 220, 0xc0ffee).unwrap();
        requests.remove_route(254, &narrow).unwrap();
        requests.remove_route(254, &narrow).unwrap();
        assert_eq!(requests.view().unwrap().route("10.77.2.9".parse().unwrap()), Some(&wide));
        drop(queues);
        // A process that another test is starting right now may still hold copies of the queues.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while requests.view().unwrap().interface("cvhost0").is_some() {
            assert!(std::time::Instant::now() < end, "the device goes with its queues");
            std::thread::yield_now();
        }
    });
}

#[test]
fn protected_traffic_cannot_leave_in_clear() {
    in_namespace(|| {
        let mut requests = Requests::open().unwrap();
        let ip = |args: &str| {
            let status = Command::new("ip").args(args.split(' ')).status().unwrap();
            assert!(status.success(), "ip {args}");
        };
        ip("link add w0 type veth peer name w1");
        for device in ["w0", "w1", "lo"] {
            let index = requests.view().unwrap().interface(device).unwrap();
            requests.bring_up(index, 1500).unwrap();
        }
        ip("addr add 10.77.1.1/24 dev w0");
        ip("route add 10.77.2.0/24 dev w0");
        ip("route add 10.77.3.0/24 dev w0");
        ip("neigh add 10.77.2.1 lladdr 02:00:00:00:00:01 dev w0");
        ip("neigh add 10.77.3.1 lladdr 02:00:00:00:00:02 dev w0");
        let socket = std::net::UdpSocket::bind("10.77.1.1:0").unwrap();
        let sent = |to: &str| socket.send_to(b"x", to).is_ok();
        let protected = [selector("10.77.1.0/24", "10.77.2.0/24")];
        assert!(sent("10.77.2.1:9"), "before the rules it leaves");
        closed::install(&protected, &[], &["culvert0".to_owned()], 0xc0ffee, [500, 4500]).unwrap();
        closed::install(&protected, &[], &["culvert0".to_owned()], 0xc0ffee, [500, 4500]).unwrap();
        assert!(!sent("10.77.2.1:9"), "a dropped packet is EPERM to its sender");
        assert!(sent("10.77.3.1:9"), "other traffic is untouched");
        closed::remove().unwrap();
        closed::remove().unwrap();
        assert!(sent("10.77.2.1:9"));
    });
}

#[test]
fn a_managed_neighbour_is_resolved_by_the_kernel() {
    in_namespace(|| {
        let mut requests = Requests::open().unwrap();
        let ip = |args: &str| {
            assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
        };
        ip("link add m0 type veth peer name m1");
        ip("link set m0 up");
        ip("link set m1 up");
        ip("addr add 10.9.9.1/24 dev m0");
        let index = requests.view().unwrap().interface("m0").unwrap();
        let peer: IpAddr = "10.9.9.2".parse().unwrap();
        requests.resolve_neighbour(index, peer, true).unwrap();
        requests.resolve_neighbour(index, peer, true).unwrap();
        let listed = Command::new("ip").args(["neigh", "show"]).output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        assert!(listed.contains("10.9.9.2 dev m0 managed"), "{listed}");
        assert!(!requests.view().unwrap().neighbours.contains_key(&(index, peer)));
    });
}
