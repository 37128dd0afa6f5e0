//! Workers on threads of their own: they sleep when there is nothing to do, and wake when there is.

use af_xdp::memory::{Link as Wire, LinkConfig, Station, link};
use af_xdp::{FramePool, Port, UmemConfig};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use worker::*;

/// A worker with one port and a host port, that forwards whatever comes back out of the port it came from.
struct Bench {
    dataplane: Dataplane,
    station: Station,
    host: MemoryHostEnd,
}

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[expect(clippy::unwrap_used, reason = "the set-up of a test")]
fn bench() -> Bench {
    let Wire { a, b, .. } = link(&LinkConfig::default()).unwrap();
    let (host, end) = HostPort::memory(16);
    let pool = FramePool::new(&UmemConfig { chunks: 256, huge_pages: false, ..Default::default() });
    let parts = WorkerParts {
        pool: pool.unwrap(),
        ports: a
            .into_iter()
            .map(|port| WorkerPort { port: Port::Memory(port), side: Side::Either, vlan: None })
            .collect(),
        host,
        block: None,
    };
    let limits = Limits { sas: 64, ..Limits::default() };
    let config = DataplaneConfig { limits, ..Default::default() };
    let (mut dataplane, workers) = Dataplane::new(&config, vec![parts]).unwrap();
    let mut routes = RouteTable::new();
    routes.insert(address(0), 8, Route::OnLink(PortId(0))).unwrap();
    let mut neighbours = NeighbourTable::new();
    neighbours.insert(PortId(0), address(2), THEIRS);
    let link = Link { mac: OURS, mtu: 1500, up: true, v4: None, v6: None };
    let table = ForwardingTable {
        routes: routes.into(),
        neighbours: neighbours.into(),
        addresses: LocalAddresses::new([address(1)]).into(),
        links: [link].into(),
    };
    dataplane.set_forwarding(table).unwrap();
    let everything = AddressRange::prefix(address(0), 0).unwrap();
    let selector = Selector {
        local: everything,
        remote: everything,
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    };
    let policy = Policy { id: PolicyId(1), selectors: vec![selector], action: Action::Bypass };
    let ticket = dataplane.set_policies(&[policy]).unwrap();
    dataplane.spawn(workers, &[0]).unwrap();
    let station = Station::new(b).unwrap();
    let bench = Bench { dataplane, station, host: end };
    assert!(within(Duration::from_secs(10), || bench.dataplane.applied(ticket)));
    bench
}

fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::yield_now();
    }
    done()
}

#[expect(clippy::panic, reason = "a helper of tests")]
fn packet(to: u8, number: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (address(2), address(to)) else {
        panic!("addresses of version 4")
    };
    let header = wire::ipv4::Header {
        traffic_class: 0,
        total_len: 28,
        id: number,
        dont_fragment: false,
        ttl: 9,
        protocol: 253,
        source,
        destination,
    };
    [header.emit().as_slice(), &[0; 8]].concat()
}

/// Nanoseconds of processor time of the thread of this name so far.
#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn processor_time(name: &str) -> u64 {
    let task = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| std::fs::read_to_string(path.join("comm")).unwrap().trim() == name)
        .unwrap();
    let statistics = std::fs::read_to_string(task.join("schedstat")).unwrap();
    statistics.split(' ').next().unwrap().parse().unwrap()
}

/// One test, as it looks for a thread by its name.
#[test]
fn a_worker_sleeps_and_wakes_for_packets_commands_and_the_host() {
    let mut bench = bench();
    std::thread::sleep(Duration::from_millis(100));
    let (before, from) = (processor_time("worker-0"), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    let used = (processor_time("worker-0") - before) as f64 / from.elapsed().as_nanos() as f64;
    assert!(used < 0.02, "an idle worker took {:.2} % of a core", used * 100.0);

    let ethernet = wire::ethernet::emit(OURS, THEIRS, wire::ethernet::IPV4);
    for n in 0..100 {
        // Long enough for the worker to fall asleep, most times.
        std::thread::sleep(Duration::from_millis(u64::from(n % 4)));
        match n % 3 {
            0 => {
                let frame = [ethernet.as_slice(), &packet(1, n)].concat();
                assert!(bench.station.inject(&frame));
                let mut got = None;
                assert!(
                    within(Duration::from_secs(5), || {
                        got = bench.host.receive();
                        got.is_some()
                    }),
                    "packet {n} slept through"
                );
                assert_eq!(got, Some(packet(1, n)));
            }
            1 => {
                bench.host.send(packet(2, n)).unwrap();
                let mut frames = Vec::new();
                let arrived = within(Duration::from_secs(5), || {
                    frames = bench.station.collect();
                    !frames.is_empty()
                });
                assert!(arrived, "host packet {n} slept through");
                assert_eq!(frames[0][14..], packet(2, n));
            }
            _ => {
                let ticket = bench.dataplane.acquire_failed(PolicyId(1)).unwrap();
                let applied = within(Duration::from_secs(5), || bench.dataplane.applied(ticket));
                assert!(applied, "command {n} slept through");
            }
        }
    }
    let workers = bench.dataplane.stop();
    assert_eq!(workers.len(), 1);
    let account = workers[0].account();
    assert!(account.balances());
    assert!(account.get(stats::Worker::Sleeps) > 10);
    assert!(account.get(stats::Worker::Wakes) > 10);
}
