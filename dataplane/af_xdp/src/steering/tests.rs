use super::*;
use std::collections::HashMap;
use std::net::IpAddr;

const PAGE: &str = include_str!("../../../../docs/steering.md");

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Loads the rules, or says on one line why it cannot.
fn steering(tables: &Tables) -> Option<Steering> {
    match Steering::new(tables) {
        Ok(steering) => Some(steering),
        Err(e) if matches!(&e, SteeringError::Map(e) if e.kind() == io::ErrorKind::PermissionDenied) =>
        {
            eprintln!("skipped: BPF_PROG_TEST_RUN needs CAP_BPF and CAP_NET_ADMIN ({e})");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The rows of the page's tables that have these columns, each as column → cell.
fn rows(columns: &[&str]) -> Vec<HashMap<&'static str, &'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    };
    let mut rows = Vec::new();
    let mut header: Option<Vec<&str>> = None;
    for line in PAGE.lines() {
        match (&header, line.starts_with('|')) {
            (_, false) => header = None,
            (None, true) => header = Some(cells(line)),
            (Some(_), true) if line.starts_with("|---") => {}
            (Some(names), true) => {
                if columns.iter().all(|c| names.contains(c)) {
                    let cells = cells(line);
                    assert_eq!(cells.len(), names.len(), "{line}");
                    rows.push(names.iter().copied().zip(cells).collect());
                }
            }
        }
    }
    rows
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

fn protocol(name: &str) -> u8 {
    match name {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "esp" => 50,
        "ah" => 51,
        "ospf" => 89,
        _ => panic!("protocol {name}"),
    }
}

fn policies() -> HashMap<&'static str, Tables> {
    rows(&["guarded addresses"])
        .into_iter()
        .map(|row| {
            let list = |column| -> Vec<&str> { row[column].split_whitespace().collect() };
            let mut tables = Tables::new();
            for (column, traffic) in [
                ("own addresses", HostTraffic::Kernel),
                ("guarded addresses", HostTraffic::Guarded),
            ] {
                for address in list(column) {
                    tables.local.insert(address.parse().unwrap(), traffic);
                }
            }
            for (column, sides) in [("near", Sides::NEAR), ("far", Sides::FAR)] {
                for p in list(column) {
                    let entry = tables.prefixes.entry(prefix(p)).or_default();
                    *entry = entry.union(sides);
                }
            }
            for exempt in list("exempt besides IKE") {
                let parts: Vec<&str> = exempt.splitn(3, '/').collect();
                tables.exempt.insert(Exempt {
                    protocol: protocol(parts[0]),
                    port: (parts[1] != "any").then(|| parts[1].parse().unwrap()),
                    source: prefix(parts[2]),
                });
            }
            (row["policy"], tables)
        })
        .collect()
}

/// The upper header and what follows it.
fn upper(row: &HashMap<&str, &str>, words: &[&str]) -> (u8, Vec<u8>) {
    let has = |w: &str| words.contains(&w);
    let (name, kind) = row["protocol"].split_once(' ').unwrap_or((row["protocol"], "8"));
    if name == "icmpv6" {
        return (58, vec![kind.parse().unwrap(), 0, 0, 0, 0, 0, 0, 0]);
    }
    let number = protocol(name);
    let port: u16 = row["port"].parse().unwrap_or(0);
    let mut bytes = 40000u16.to_be_bytes().to_vec();
    match name {
        "udp" => {
            let payload: &[u8] = if has("esp") {
                &[0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
            } else if has("ike") {
                &[0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]
            } else if has("keepalive") {
                &[0xff]
            } else if has("empty") {
                &[]
            } else {
                &[5; 20]
            };
            bytes.extend(port.to_be_bytes());
            bytes.extend((8 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(payload);
        }
        "tcp" => {
            bytes.extend(port.to_be_bytes());
            bytes.extend([0; 16]);
        }
        "icmp" => bytes = vec![8, 0, 0, 0, 0, 0, 0, 0],
        _ => bytes = vec![0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9],
    }
    (number, bytes)
}

/// The frame that a row describes.
fn frame(row: &HashMap<&str, &str>) -> Vec<u8> {
    let words: Vec<&str> =
        row["packet"].split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    for w in &words {
        let known = [
            "broadcast station",
            "multicast station",
            "other station",
            "version 4",
            "version 5",
            "header length 4",
            "first fragment",
            "later fragment",
            "options",
            "esp",
            "ike",
            "keepalive",
            "empty",
            "behind hop-by-hop",
            "behind routing",
            "behind destination",
            "behind seven headers",
        ];
        let numbered = ["cut to ", "vlan ", "service vlan "].iter().any(|n| w.starts_with(n));
        assert!(known.contains(w) || numbered, "{w}");
    }
    let has = |w: &str| words.contains(&w);
    let mut frame = if has("broadcast station") {
        vec![0xff; 6]
    } else if has("multicast station") {
        vec![1, 0, 0x5e, 1, 1, 1]
    } else if has("other station") {
        vec![2, 0, 0, 0, 0, 9]
    } else {
        MAC.to_vec()
    };
    frame.extend([2, 0, 0, 0, 0, 2]);
    for tag in words.iter().filter_map(|w| w.strip_prefix("vlan ")) {
        frame.extend([0x81, 0]);
        frame.extend((0xe000 | tag.parse::<u16>().unwrap()).to_be_bytes());
    }
    for tag in words.iter().filter_map(|w| w.strip_prefix("service vlan ")) {
        // Outermost, as it is on the wire.
        let tag = [0x88, 0xa8].into_iter().chain(tag.parse::<u16>().unwrap().to_be_bytes());
        frame.splice(12..12, tag);
    }
    if row["protocol"] == "arp" {
        frame.extend([8, 6]);
        frame.extend([0; 46]);
        return frame;
    }
    let (protocol, mut payload) = upper(row, &words);
    if has("later fragment") {
        // What a program would take for ports and marker if it looked.
        payload = vec![0x9c, 0x40, 0x11, 0x94, 0, 28, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9];
    }
    match (row["source"].parse().unwrap(), row["destination"].parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let words = if has("options") { 15 } else { 5 };
            let version = if has("version 5") { 5 } else { 4 };
            frame.extend([8, 0]);
            let length = if has("header length 4") { 4 } else { words };
            frame.extend([version << 4 | length, 0]);
            frame.extend((4 * u16::from(words) + payload.len() as u16).to_be_bytes());
            frame.extend([0, 1]);
            frame.extend(if has("first fragment") {
                [0x20, 0]
            } else if has("later fragment") {
                [0, 0x40]
            } else {
                [0x40, 0]
            });
            frame.extend([64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.extend(vec![1; usize::from(words) * 4 - 20]);
            frame.extend(payload);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // The chain, first header first: (its number, its octets without the next header's).
            let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
            for w in &words {
                match *w {
                    "behind hop-by-hop" => chain.push((0, vec![0, 1, 4, 0, 0, 0, 0])),
                    "behind routing" => {
                        chain.push((43, [&[2u8, 0, 0, 0, 0, 0, 0][..], &[0; 16]].concat()))
                    }
                    "behind destination" => {
                        chain.push((60, [&[1u8, 1, 12][..], &[0; 12]].concat()))
                    }
                    "behind seven headers" => {
                        chain.extend(vec![(60, vec![0, 1, 4, 0, 0, 0, 0]); 7])
                    }
                    _ => {}
                }
            }
            if has("first fragment") {
                chain.push((44, vec![0, 0, 1, 0, 0, 0, 1]));
            } else if has("later fragment") {
                chain.push((44, vec![0, 2, 0, 0, 0, 0, 1]));
            }
            let mut body = Vec::new();
            for (i, (_, octets)) in chain.iter().enumerate() {
                body.push(chain.get(i + 1).map_or(protocol, |c| c.0));
                body.extend(octets);
            }
            body.extend(payload);
            frame.extend([0x86, 0xdd]);
            frame.extend([if has("version 4") { 0x40 } else { 0x60 }, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([chain.first().map_or(protocol, |c| c.0), 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.extend(body);
        }
        _ => panic!("two families"),
    }
    if let Some(length) = words.iter().find_map(|w| w.strip_prefix("cut to ")) {
        frame.truncate(length.parse().unwrap());
    } else if frame.len() < 60 {
        // Ethernet pads, so a program that trusts the frame's length reads this.
        frame.resize(60, 0xee);
    }
    frame
}

fn verdict(code: u32) -> &'static str {
    match code {
        1 => "drop",
        2 => "kernel",
        4 => "socket",
        _ => panic!("XDP action {code}"),
    }
}

#[test]
fn the_program_does_what_the_page_says() {
    let policies = policies();
    let rows = rows(&["rule", "policy", "source", "destination", "packet", "verdict"]);
    assert!(rows.len() > 130, "only {} rows found", rows.len());
    let mut loaded = HashMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        if !loaded.contains_key(row["policy"]) {
            let Some(steering) = steering(&policies[row["policy"]]) else { return };
            let program = steering.load(Some(MAC)).unwrap();
            let socket = crate::syscall::socket(libc::AF_XDP, libc::SOCK_RAW).unwrap();
            loaded.insert(row["policy"], (steering, program, socket));
        }
        let (steering, program, socket) = loaded.get_mut(row["policy"]).unwrap();
        let vlans = row.get("port's VLAN").copied().unwrap_or("none").split_whitespace();
        let vlans: Vec<_> =
            vlans.map(|vlan| (vlan != "none").then(|| vlan.parse().unwrap())).collect();
        program.set_vlans(&vlans).unwrap();
        let posture = match row.get("posture").copied().unwrap_or("guarded") {
            "closed" => Posture::Closed,
            "guarded" => Posture::Guarded,
            "open" => Posture::Open,
            other => panic!("{other}"),
        };
        steering.set_posture(posture).unwrap();
        match row.get("queue").copied().unwrap_or("bound") {
            "bound" => program.set_socket(0, std::os::fd::AsFd::as_fd(socket)).unwrap(),
            "unbound" => drop(program.sockets.remove(&[0; 4])),
            other => panic!("{other}"),
        }
        let frame = frame(row);
        let before = steering.drops().unwrap();
        let got = match program.program.test_run(&frame, 1) {
            Ok((code, _)) => verdict(code),
            // The kernel makes no frame shorter than an Ethernet header.
            Err(e) if frame.len() < 14 && e.raw_os_error() == Some(libc::EINVAL) => "kernel",
            Err(e) => panic!("{e}: {row:?}"),
        };
        assert_eq!(steering.drops().unwrap() - before, u64::from(got == "drop"), "{row:?}");
        if got != row["verdict"] {
            wrong.push(format!("{got}, not {}: {row:?}", row["verdict"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn every_rule_has_rows() {
    let rows = rows(&["rule", "policy", "verdict"]);
    for rule in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        assert!(rows.iter().filter(|r| r["rule"] == rule).count() >= 5, "rule {rule}");
    }
}

/// Whatever bytes arrive, the program ends with one of its three verdicts: the verifier proves the memory accesses,
/// this that no length of any row's frame runs into something else.
#[test]
fn every_prefix_of_every_frame_has_a_verdict() {
    let Some(steering) = steering(&policies()["any"]) else { return };
    steering.set_posture(Posture::Closed).unwrap();
    let program = steering.load(Some(MAC)).unwrap();
    for row in rows(&["rule", "policy", "verdict"]).iter().step_by(7) {
        let frame = frame(row);
        for length in 14..=frame.len() {
            let (code, _) = program.program.test_run(&frame[..length], 1).unwrap();
            assert!(matches!(verdict(code), "drop" | "kernel"), "{length}: {row:?}");
        }
    }
}

#[test]
fn rules_change_without_a_gap_and_without_a_rest() {
    let policies = policies();
    let Some(mut steering) = steering(&policies["site"]) else { return };
    steering.set_posture(Posture::Closed).unwrap();
    let program = steering.load(Some(MAC)).unwrap();
    let row = |destination| {
        HashMap::from([
            ("source", "10.1.0.2"),
            ("destination", destination),
            ("protocol", "tcp"),
            ("port", "80"),
            ("packet", ""),
        ])
    };
    let (far, elsewhere) = (frame(&row("10.2.0.2")), frame(&row("198.51.100.7")));
    let run = |frame: &[u8]| verdict(program.program.test_run(frame, 1).unwrap().0);

    std::thread::scope(|s| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let watcher = s.spawn(|| {
            let mut runs = 0u32;
            // Bound here, so that the receiver ends with the watcher.
            let stopped = stopped;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                assert_eq!(run(&far), "drop", "after {runs} runs");
                runs += 1;
            }
            runs
        });
        for _ in 0..200 {
            steering.update(&policies["default"]).unwrap();
            assert_eq!(run(&elsewhere), "drop");
            steering.update(&policies["site"]).unwrap();
            assert_eq!(run(&elsewhere), "kernel");
        }
        drop(stop);
        assert!(watcher.join().unwrap() > 100);
    });
    steering.update(&policies["none"]).unwrap();
    assert_eq!(run(&far), "kernel");
    steering.update(&Tables::default()).unwrap();
    assert!(steering.entries.0.is_empty());
}

#[test]
fn a_rejected_program_comes_with_the_verifier_s_reason() {
    if steering(&Tables::default()).is_none() {
        return;
    }
    let mut a = crate::asm::Asm::new();
    a.mov(crate::asm::Reg::R0, crate::asm::Reg::R3).exit();
    let rejected = Program::load("bad", &a.finish().unwrap()).unwrap_err();
    assert!(rejected.log.contains("R3"), "{rejected}");
}

/// Not a benchmark, but a hundred times the usual cost should be noticed.
#[test]
fn a_verdict_takes_well_under_a_microsecond() {
    let Some(steering) = steering(&policies()["default"]) else { return };
    let program = steering.load(Some(MAC)).unwrap();
    let rows = rows(&["rule", "policy", "source", "packet", "verdict"]);
    for (protocol, packet) in [("esp", ""), ("tcp", "")] {
        let row = rows
            .iter()
            .find(|r| {
                r["rule"] == if protocol == "esp" { "4" } else { "7" } && r["protocol"] == protocol
            })
            .unwrap();
        assert_eq!(row["packet"], packet);
        let (_, nanoseconds) = program.program.test_run(&frame(row), 100_000).unwrap();
        eprintln!("{protocol}: {nanoseconds} ns");
        assert!(nanoseconds < 20_000);
    }
}
