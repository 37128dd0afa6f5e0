//! AF_XDP on real interfaces: two veth pairs between three network namespaces, made and deleted here.
//!
//! ```text
//!   client 10.1.0.2 ──── 10.1.0.1 gateway 10.2.0.1 ──── 10.2.0.2 server
//! ```
//!
//! The gateway's kernel does not forward, so what passes between client and server has passed through AF_XDP: the
//! forwarder, which is this test program run again inside the namespace. Without root, the tests say that they
//! are skipped.

#[cfg(test)]
mod namespaces {
    use af_xdp::steering::{Attachment, HostTraffic, Posture, Prefix, Steering, Tables};
    use af_xdp::wait::{EventFd, PollSet};
    use af_xdp::{Device, FramePool, Mode, Offload, Port, UmemConfig, XdpConfig, XdpPort};
    use std::io::{BufRead, BufReader, Read};
    use std::net::IpAddr;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    const CLIENT_MAC: &str = "02:00:00:00:0c:01";
    const SERVER_MAC: &str = "02:00:00:00:05:01";

    /// Runs a command line; its output, or a panic that shows it.
    fn run(line: &str) -> String {
        let (ok, output) = try_run(line);
        assert!(ok, "{line}:\n{output}");
        output
    }

    fn try_run(line: &str) -> (bool, String) {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Three namespaces, deleted at the end.
    struct Net {
        tag: String,
    }

    impl Net {
        /// `None`, with the reason on one line, where namespaces cannot be made.
        fn new(test: &str, queues: u32) -> Option<Self> {
            if Command::new("ip").arg("-V").output().is_err() {
                eprintln!("skipped: no ip command");
                return None;
            }
            let net = Self { tag: format!("cvx{}{test}", std::process::id()) };
            let (ok, output) = try_run(&format!("ip netns add {}c", net.tag));
            if !ok {
                eprintln!("skipped: no network namespaces here ({})", output.trim());
                return None;
            }
            let tag = &net.tag;
            for line in [
                format!("ip netns add {tag}g"),
                format!("ip netns add {tag}s"),
                format!(
                    "ip -n {tag}g link add ga numrxqueues {queues} numtxqueues {queues} type veth peer \
                     name c0 netns {tag}c numrxqueues {queues} numtxqueues {queues}"
                ),
                format!(
                    "ip -n {tag}g link add gb numrxqueues {queues} numtxqueues {queues} type veth peer \
                     name s0 netns {tag}s numrxqueues {queues} numtxqueues {queues}"
                ),
                format!("ip -n {tag}c link set c0 address {CLIENT_MAC}"),
                format!("ip -n {tag}s link set s0 address {SERVER_MAC}"),
                format!("ip -n {tag}c addr add 10.1.0.2/24 dev c0"),
                format!("ip -n {tag}g addr add 10.1.0.1/24 dev ga"),
                format!("ip -n {tag}g addr add 10.2.0.1/24 dev gb"),
                format!("ip -n {tag}s addr add 10.2.0.2/24 dev s0"),
                format!("ip -n {tag}c addr add fd01::2/64 dev c0 nodad"),
                format!("ip -n {tag}g addr add fd01::1/64 dev ga nodad"),
                format!("ip -n {tag}g addr add fd02::1/64 dev gb nodad"),
                format!("ip -n {tag}s addr add fd02::2/64 dev s0 nodad"),
                format!("ip -n {tag}c link set c0 up"),
                format!("ip -n {tag}g link set ga up"),
                format!("ip -n {tag}g link set gb up"),
                format!("ip -n {tag}s link set s0 up"),
                format!("ip -n {tag}c route add default via 10.1.0.1"),
                format!("ip -n {tag}s route add default via 10.2.0.1"),
                format!("ip -n {tag}c route add default via fd01::1"),
                format!("ip -n {tag}s route add default via fd02::1"),
                format!("ip netns exec {tag}g sysctl -qw net.ipv4.ip_forward=0"),
                format!("ip netns exec {tag}g sysctl -qw net.ipv6.conf.all.forwarding=0"),
            ] {
                run(&line);
            }
            Some(net)
        }

        /// Pings from the client; packets answered, or a panic on duplicates.
        fn ping(&self, to: &str, count: u32, options: &str) -> u32 {
            let tag = &self.tag;
            let (_, text) =
                try_run(&format!("ip netns exec {tag}c ping -n -c {count} -W 1 {options} {to}"));
            assert!(!text.contains("DUP!"), "{text}");
            let line =
                text.lines().find(|l| l.contains("received")).unwrap_or_else(|| panic!("{text}"));
            let received = line.split(',').find(|p| p.contains("received")).unwrap();
            received.split_whitespace().next().unwrap().parse().unwrap()
        }

        /// Starts the forwarder and waits until it says that it forwards, or what else it says.
        fn forwarder(&self, mode: &str) -> (Child, BufReader<std::process::ChildStdout>, String) {
            let mut child = Command::new("ip")
                .args(["netns", "exec", &format!("{}g", self.tag)])
                .arg(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "namespaces::forwarder", "--nocapture"])
                .env("FORWARDER_MODE", mode)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while !line.starts_with("forwarder:") {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0, "the forwarder ended");
            }
            (child, lines, line)
        }
    }

    impl Drop for Net {
        fn drop(&mut self) {
            for end in ["c", "g", "s"] {
                let _ = Command::new("ip")
                    .args(["netns", "del", &format!("{}{end}", self.tag)])
                    .output();
            }
        }
    }

    /// Ends a forwarder by the end of its input; what it printed.
    fn stop(mut child: Child, mut lines: BufReader<std::process::ChildStdout>) -> String {
        drop(child.stdin.take());
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{rest}");
        rest
    }

    fn number(text: &str, name: &str) -> u64 {
        let at = text.find(&format!(" {name} ")).unwrap_or_else(|| panic!("no {name} in {text}"));
        text[at + name.len() + 2..].split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn frames_pass_through_af_xdp_and_the_kernel_keeps_its_own() {
        for mode in ["auto", "generic"] {
            let Some(net) = Net::new(&mode[..1], 1) else { return };
            assert_eq!(net.ping("10.2.0.2", 1, ""), 0, "the kernel forwards");
            let (child, lines, said) = net.forwarder(mode);
            let attached = if mode == "auto" { "Native" } else { "Generic" };
            assert!(said.contains(attached), "{said}");

            // ARP, neighbour discovery and echo to the gateway itself are the kernel's.
            assert_eq!(net.ping("10.1.0.1", 3, "-i 0.1"), 3);
            assert_eq!(net.ping("fd01::1", 3, "-i 0.1"), 3);
            // Between the prefixes the forwarder's, at every size and at a rate.
            for size in [0, 56, 1000, 1472] {
                assert_eq!(
                    net.ping("10.2.0.2", 3, &format!("-i 0.05 -s {size}")),
                    3,
                    "size {size}"
                );
                assert_eq!(net.ping("fd02::2", 3, &format!("-i 0.05 -s {}", size.min(1452))), 3);
            }
            assert_eq!(net.ping("10.2.0.2", 2000, "-f"), 2000);
            // What came to the server came from an untouched neighbour table of the gateway.
            let neighbours = run(&format!("ip -n {}g neigh show dev ga", net.tag));
            assert!(neighbours.contains(CLIENT_MAC), "{neighbours}");

            let said = stop(child, lines);
            // Each ping is a request and an answer, each received once and sent once.
            let expect = 2 * (4 * 3 + 4 * 3 + 2000);
            assert_eq!(number(&said, "received"), expect, "{said}");
            assert_eq!(number(&said, "sent"), expect, "{said}");
            assert_eq!(number(&said, "dropped"), 0, "{said}");
            assert_eq!(number(&said, "refused"), 0, "{said}");
            assert_eq!(number(&said, "out"), 0, "{said}");
            assert_eq!(number(&said, "transmitting"), 0, "{said}");
            // The forwarder slept between the pings.
            assert!(number(&said, "sleeps") > 5, "{said}");
        }
    }

    #[test]
    fn a_killed_process_leaves_the_interface_to_the_kernel() {
        let Some(net) = Net::new("k", 1) else { return };
        for round in 0..3 {
            // The queue was given up the moment before: binding waits for it.
            let (mut child, _lines, _) = net.forwarder("auto");
            assert_eq!(net.ping("10.2.0.2", 3, "-i 0.05"), 3, "round {round}");
            let attached = run(&format!("ip -n {}g -d link show ga", net.tag));
            assert!(attached.contains("xdp"), "{attached}");
            child.kill().unwrap();
            child.wait().unwrap();
            if round == 0 {
                let detached = run(&format!("ip -n {}g -d link show ga", net.tag));
                assert!(!detached.contains("prog/xdp"), "{detached}");
                assert_eq!(net.ping("10.1.0.1", 3, "-i 0.1"), 3);
                assert_eq!(net.ping("10.2.0.2", 1, ""), 0);
            }
        }
    }

    #[test]
    fn a_port_is_closed_and_opened_again_without_losing_memory() {
        let Some(net) = Net::new("r", 1) else { return };
        let (child, lines, _) = net.forwarder("reopen");
        assert_eq!(net.ping("10.2.0.2", 10, "-i 0.05"), 10);
        let said = stop(child, lines);
        assert_eq!(number(&said, "reopened"), 2, "{said}");
        assert_eq!(number(&said, "out"), 0, "{said}");
    }

    #[test]
    fn two_workers_share_two_devices() {
        let Some(net) = Net::new("q", 2) else { return };
        for host in 3..20 {
            run(&format!("ip -n {}s addr add 10.2.0.{host}/24 dev s0", net.tag));
        }
        let (child, lines, _) = net.forwarder("two");
        for host in 2..20 {
            assert_eq!(net.ping(&format!("10.2.0.{host}"), 5, "-i 0.01"), 5, "10.2.0.{host}");
        }
        assert_eq!(net.ping("10.1.0.1", 3, "-i 0.05"), 3);
        let said = stop(child, lines);
        assert_eq!(number(&said, "received"), 2 * 18 * 5, "{said}");
        assert_eq!(number(&said, "sent"), 2 * 18 * 5, "{said}");
        assert_eq!(number(&said, "busy-workers"), 2, "{said}");
        assert_eq!(number(&said, "out"), 0, "{said}");
    }

    /// Some hundred thousand packets in bursts: the rings go around many times, and what the forwarder takes it
    /// sends. It may be outrun, so drops are the kernel's to count, not losses of ours.
    #[test]
    fn a_tcp_stream_passes_whole() {
        for tool in ["iperf3", "ethtool"] {
            if Command::new(tool).arg("--version").output().is_err() {
                eprintln!("skipped: no {tool}");
                return;
            }
        }
        for mode in ["auto", "generic"] {
            let Some(net) = Net::new(&format!("t{}", &mode[..1]), 1) else { return };
            let tag = &net.tag;
            // The stack leaves checksums to the device, and veth has none that would fill them in.
            run(&format!("ip netns exec {tag}c ethtool -K c0 tx off"));
            run(&format!("ip netns exec {tag}s ethtool -K s0 tx off"));
            let (child, lines, _) = net.forwarder(mode);
            let mut server = Command::new("ip")
                .args(["netns", "exec", &format!("{tag}s"), "iperf3", "-s", "-1"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            assert_eq!(net.ping("10.2.0.2", 3, "-i 0.1"), 3);
            let report = run(&format!(
                "ip netns exec {tag}c iperf3 -c 10.2.0.2 -t 1 -f m --connect-timeout 5000"
            ));
            server.wait().unwrap();
            let said = stop(child, lines);
            let (received, sent) = (number(&said, "received"), number(&said, "sent"));
            eprintln!("{mode}: {}", report.lines().rfind(|l| l.contains("receiver")).unwrap_or(""));
            assert!(received > 20_000, "{said}{report}");
            assert_eq!(received, sent, "{said}");
            for lost in ["refused", "out", "transmitting"] {
                assert_eq!(number(&said, lost), 0, "{lost}: {said}");
            }
        }
    }

    #[test]
    fn a_device_that_was_down_forwards_again_and_costs_nothing_meanwhile() {
        let Some(net) = Net::new("u", 1) else { return };
        let (child, lines, _) = net.forwarder("auto");
        assert_eq!(net.ping("10.2.0.2", 3, "-i 0.05"), 3);
        run(&format!("ip -n {}g link set gb down", net.tag));
        assert_eq!(net.ping("10.2.0.2", 3, "-i 0.05"), 0);
        let before = ticks(&child);
        std::thread::sleep(Duration::from_secs(1));
        let spent = ticks(&child) - before;
        run(&format!("ip -n {}g link set gb up", net.tag));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(net.ping("10.2.0.2", 5, "-i 0.05"), 5);
        let said = stop(child, lines);
        assert!(spent < 20, "{spent} of 100 ticks: {said}");
        assert_eq!(number(&said, "transmitting"), 0, "{said}");
    }

    /// Processor time of a child so far, in hundredths of a second.
    fn ticks(child: &Child) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    #[test]
    fn a_deleted_device_is_noticed_and_harms_nothing_else() {
        let Some(net) = Net::new("d", 1) else { return };
        let (child, lines, _) = net.forwarder("auto");
        assert_eq!(net.ping("10.2.0.2", 3, "-i 0.05"), 3);
        run(&format!("ip -n {}g link del ga", net.tag));
        let tag = &net.tag;
        let (ok, text) = try_run(&format!("ip netns exec {tag}s ping -n -c 2 -i 0.1 10.2.0.1"));
        assert!(ok, "{text}");
        let said = stop(child, lines);
        assert!(said.contains("fault Some(NetworkDown)"), "{said}");
    }

    /// Sets the MTU of both wires.
    fn set_mtu(net: &Net, mtu: u32) {
        for (end, device) in [("g", "ga"), ("c", "c0"), ("g", "gb"), ("s", "s0")] {
            run(&format!("ip -n {}{end} link set {device} mtu {mtu}", net.tag));
        }
    }

    /// Packets of one to three buffers, in the driver and in the stack, come out as they went in and leave no frame behind.
    #[test]
    fn packets_of_several_buffers_pass() {
        for mode in ["auto", "generic"] {
            let Some(net) = Net::new(&format!("j{}", &mode[..1]), 1) else { return };
            set_mtu(&net, 9000);
            let (child, lines, said) = net.forwarder(mode);
            let attached = if mode == "auto" { "Native" } else { "Generic" };
            assert!(said.contains(attached), "{said}");
            let sizes = [56, 3700, 3720, 3800, 3812, 3813, 4050, 4068, 7650, 8164, 8972];
            for size in sizes {
                let options = format!("-M do -i 0.02 -s {size} -p 5a17c3");
                assert_eq!(net.ping("10.2.0.2", 3, &options), 3, "{mode}, size {size}");
            }
            assert_eq!(net.ping("10.2.0.2", 300, "-M do -f -s 8972"), 300);
            let said = stop(child, lines);
            let expect = 2 * (3 * sizes.len() as u64 + 300);
            for (name, count) in [("received", expect), ("sent", expect)] {
                assert_eq!(number(&said, name), count, "{said}");
            }
            for lost in ["dropped", "refused", "out", "transmitting"] {
                assert_eq!(number(&said, lost), 0, "{lost}: {said}");
            }
        }
    }

    #[test]
    fn an_mtu_beyond_a_jumbo_frame_is_refused() {
        let Some(net) = Net::new("m", 1) else { return };
        set_mtu(&net, 13_000);
        let (mut child, _lines, said) = net.forwarder("auto");
        assert!(
            said.contains("an MTU of 13000 does not fit one buffer; at most 11918 does"),
            "{said}"
        );
        child.wait().unwrap();
    }

    fn mac(text: &str) -> [u8; 6] {
        let mut octets = [0; 6];
        for (to, from) in octets.iter_mut().zip(text.split(':')) {
            *to = u8::from_str_radix(from, 16).unwrap();
        }
        octets
    }

    /// Forwards between ga and gb until its input ends. Not a test by itself: `Net::forwarder` runs it.
    #[test]
    #[ignore = "run by the other tests, inside a namespace"]
    fn forwarder() {
        let Ok(mode) = std::env::var("FORWARDER_MODE") else { return };
        let config = XdpConfig {
            mode: if mode == "generic" { Mode::Generic } else { Mode::Auto },
            ..XdpConfig::default()
        };
        let mut tables = Tables::new();
        for own in ["10.1.0.1", "10.2.0.1", "fd01::1", "fd02::1"] {
            tables.local.insert(own.parse().unwrap(), HostTraffic::Kernel);
        }
        let prefix = |a: &str, l| Prefix::new(a.parse::<IpAddr>().unwrap(), l).unwrap();
        tables.protect(prefix("10.1.0.0", 24), prefix("10.2.0.0", 24));
        tables.protect(prefix("fd01::", 64), prefix("fd02::", 64));
        let steering = Steering::new(&tables).unwrap();
        let memory = UmemConfig::for_ports(2, config.receive_ring, config.transmit_ring);
        let mut pool = FramePool::new(&memory).unwrap();
        let mut devices = Vec::new();
        let mut ports = Vec::new();
        for name in ["ga", "gb"] {
            let mut device = Device::by_name(name).unwrap();
            for on in [true, false] {
                device.set_offload(Offload::VlanStripping, on).unwrap();
                assert_eq!(Device::by_name(name).unwrap().strips_vlan(), on);
                device.set_offload(Offload::GenericReceive, on).unwrap();
                assert_eq!(Device::by_name(name).unwrap().generic_receive(), on);
            }
            // A veth has none.
            assert!(device.set_offload(Offload::LargeReceive, true).is_err());
            let attachment = steering.attach(&device, None, config.mode.attach_modes()).unwrap();
            match XdpPort::open(&device, 0, &attachment, &mut pool, &config) {
                Ok(port) => ports.push(Port::Xdp(port)),
                Err(e) => {
                    println!("\nforwarder: {e}");
                    return;
                }
            }
            devices.push((device, attachment));
        }
        steering.set_posture(Posture::Guarded).unwrap();
        let mut reopened = 0;
        if mode == "reopen" {
            for (slot, (device, attachment)) in ports.iter_mut().zip(&devices) {
                let before = pool.gauges();
                // The enum owns the port, so the old one is taken out by way of a list of one.
                let old = std::mem::replace(slot, memory_port());
                let Port::Xdp(old) = old else { panic!() };
                let retired = old.close(&mut pool);
                let retired = pool.repossess(retired).unwrap_err();
                *slot =
                    Port::Xdp(XdpPort::open(device, 0, attachment, &mut pool, &config).unwrap());
                std::thread::sleep(af_xdp::Retired::REST);
                assert_eq!(pool.repossess(retired).unwrap(), 2048);
                assert_eq!(pool.gauges(), before);
                reopened += 1;
            }
        }
        let mut second = (mode == "two").then(|| {
            let mut pool = FramePool::new(&memory).unwrap();
            let ports: Vec<Port> = devices
                .iter()
                .map(|(device, attachment)| {
                    assert_eq!(device.queues(), 2);
                    XdpPort::open(device, 1, attachment, &mut pool, &config).map(Port::Xdp).unwrap()
                })
                .collect();
            (ports, pool)
        });
        println!("\nforwarder: {:?}", devices[0].1.mode());

        let stop = Stop { flag: AtomicBool::new(false), bell: EventFd::new().unwrap() };
        let totals = std::thread::scope(|s| {
            let mut workers = vec![s.spawn(|| forward(ports, &mut pool, &devices, &stop))];
            if let Some((ports, pool)) = &mut second {
                let ports = std::mem::take(ports);
                workers.push(s.spawn(|| forward(ports, pool, &devices, &stop)));
            }
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.flag.store(true, Ordering::Relaxed);
            stop.bell.ring();
            workers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>()
        });
        let sum = |f: fn(&Totals) -> u64| totals.iter().map(f).sum::<u64>();
        println!(
            "\n received {} sent {} sleeps {} reopened {reopened} out {} transmitting {} dropped {} \
             refused {} busy-workers {} fault {:?} ",
            sum(|t| t.received),
            sum(|t| t.sent),
            sum(|t| t.sleeps),
            pool.gauges().out + second.as_ref().map_or(0, |(_, p)| p.gauges().out),
            pool.gauges().transmit + second.as_ref().map_or(0, |(_, p)| p.gauges().transmit),
            sum(|t| t.dropped),
            sum(|t| t.refused),
            sum(|t| u64::from(t.received > 0)),
            totals[0].fault,
        );
    }

    struct Stop {
        flag: AtomicBool,
        bell: EventFd,
    }

    struct Totals {
        received: u64,
        sent: u64,
        sleeps: u64,
        dropped: u64,
        refused: u64,
        fault: Option<std::io::ErrorKind>,
    }

    /// One worker: whatever comes in on one port goes out on the other.
    fn forward(
        mut ports: Vec<Port>,
        pool: &mut FramePool,
        devices: &[(Device, Attachment)],
        stop: &Stop,
    ) -> Totals {
        let next_hops = [mac(SERVER_MAC), mac(CLIENT_MAC)];
        let mut frames = Vec::with_capacity(64);
        let (mut received, mut sent, mut idle, mut sleeps) = (0, 0, 0, 0);
        while !stop.flag.load(Ordering::Relaxed) || idle < 1000 {
            let mut any = false;
            for i in 0..2 {
                ports[i].complete(pool);
                let n = ports[i].receive(pool, &mut frames, 64) as u64;
                any |= n > 0;
                received += n;
                let from = devices[1 - i].0.address();
                for frame in &mut frames {
                    frame.data_mut()[..6].copy_from_slice(&next_hops[i]);
                    frame.data_mut()[6..12].copy_from_slice(&from);
                }
                sent += ports[1 - i].transmit(pool, &mut frames) as u64;
                assert!(frames.is_empty());
                ports[1 - i].kick();
            }
            idle = if any { 0 } else { idle + 1 };
            if idle > 100 && !stop.flag.load(Ordering::Relaxed) {
                if ports.iter_mut().all(Port::prepare_sleep) {
                    let mut set = PollSet::new();
                    set.add(stop.bell.as_fd());
                    for port in &ports {
                        set.add(port.fd().unwrap());
                    }
                    set.wait(Some(Duration::from_secs(5))).unwrap();
                    sleeps += 1;
                }
                ports.iter_mut().for_each(Port::wake);
                idle = 0;
            }
        }
        let statistics: Vec<_> = ports.iter().map(|p| p.statistics().unwrap()).collect();
        let sum = |f: fn(&af_xdp::PortStatistics) -> u64| statistics.iter().map(f).sum::<u64>();
        Totals {
            received,
            sent,
            sleeps,
            dropped: sum(|s| s.rx_dropped + s.rx_ring_full + s.tx_invalid + s.kick_errors),
            refused: sum(|s| s.descriptors_refused + s.foreign_frames),
            fault: ports[0].take_error().unwrap().map(|e| e.kind()),
        }
    }

    /// A stand-in while a port is closed.
    fn memory_port() -> Port {
        Port::Memory(af_xdp::memory::link(&Default::default()).unwrap().a.remove(0))
    }
}
