//! `culvert bench --interface` between the ends of a veth pair; where namespaces cannot be made it says so and passes.

#![expect(clippy::expect_used, reason = "a test that cannot run fails")]
#![expect(clippy::print_stderr, reason = "why a test was skipped")]

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Each run wants two cores for itself.
static CORES: Mutex<()> = Mutex::new(());

/// A namespace with both ends of a veth pair, deleted at the end.
struct Net(String, #[expect(dead_code, reason = "held for its drop")] MutexGuard<'static, ()>);

impl Net {
    fn new(test: &str, queues: u32) -> Option<Self> {
        let name = format!("cvb{}{test}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no network namespaces here, as without root ({made:?})");
            return None;
        }
        let net = Self(name, CORES.lock().unwrap_or_else(PoisonError::into_inner));
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        net.ip(&format!("link add va {count} type veth peer name vb {count}"));
        net.ip("link set va up");
        net.ip("link set vb up");
        Some(net)
    }

    fn ip(&self, line: &str) -> String {
        let words = line.split(' ');
        let output = Command::new("ip").args(["-n", &self.0]).args(words).output().expect("ip");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, env!("CARGO_BIN_EXE_culvert"), "bench"]);
        command.args(["--seconds", "0.05", "--repetitions", "1", "--frames", "1024"]);
        command.args(arguments.split(' '));
        command
    }

    fn bench(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("the command starts")
    }

    /// Whether a program is on either end.
    fn has_program(&self) -> bool {
        self.ip("-d link show").contains("prog/xdp")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

fn report(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn both_ways_over_a_veth_pair_verify_and_leave_no_program() {
    let Some(net) = Net::new("v", 1) else { return };
    let parameters = "--json --sizes 64,imix --sas 50 --esn --loads 20";
    // By both names, and by one whose other end is found.
    for (interfaces, sizes) in [("va,vb", 2), ("vb", 2)] {
        let report = report(&net.bench(&format!("--interface {interfaces} {parameters}")));
        let ports = &report["ports"];
        assert_eq!((ports["sender"].as_str(), ports["gateway"].as_str()), (Some("va"), Some("vb")));
        assert_eq!(ports["gateway_mode"], "copy");
        let points = report["points"].as_array().expect("points");
        assert_eq!(points.len(), 2 * sizes);
        for point in points {
            let path = &point["over_ports"];
            assert_eq!(path["verified"], 2 * 1024, "{point}");
            assert_eq!(path["lost"], 0, "{point}");
            for figure in ["busy", "forwarder"] {
                assert!(path[figure]["median"].as_f64() > Some(0.0), "{point}");
            }
            let load = &path["loads"][0];
            assert!(load["latency_ns"]["p50"].as_u64() > Some(0), "{point}");
            assert!(load["offered"].as_u64() > Some(0), "{point}");
        }
        assert!(!net.has_program());
    }
}

#[test]
fn a_worker_for_each_queue_and_the_program_in_the_stack() {
    let Some(net) = Net::new("q", 2) else { return };
    let refused = net.bench("--interface va,vb --sizes 64");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("--workers 2"), "{text}");
    let parameters = "--workers 2 --xdp-mode generic --json --sizes 64 --direction out";
    let report = report(&net.bench(&format!("--interface va,vb {parameters}")));
    assert_eq!(report["ports"]["gateway_mode"], "copy, program in the stack");
    assert_eq!(report["points"][0]["over_ports"]["verified"], 4 * 1024);
}

/// Waits for it, a few seconds at most.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the process at the end of a test that failed.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupt_leaves_no_program() {
    let Some(net) = Net::new("i", 1) else { return };
    let mut command = net.command("--interface va,vb --sas 2000");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut bench = Ended(command.spawn().expect("the command starts"));
    eventually("no program was attached", || net.has_program());
    // `ip netns exec` becomes the command, so the number is the bench's.
    let number = bench.0.id().to_string();
    let killed = Command::new("kill").args(["-INT", &number]).status().expect("kill");
    assert!(killed.success());
    let status = bench.0.wait().expect("it ends");
    assert!(!status.success());
    eventually("a program stayed", || !net.has_program());
}

#[test]
fn errors_say_what_to_do_next() {
    let said = |output: Output| {
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // These need no root.
    for (interface, expected) in [
        ("nosuch0,nosuch1", "no interface nosuch0"),
        ("nosuch0", "no interface nosuch0"),
        ("lo", "name both ends"),
        ("lo,lo", "--interface SENDER,GATEWAY"),
    ] {
        let bench = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .args(["bench", "--interface", interface])
            .output();
        let text = said(bench.expect("the command starts"));
        assert!(text.contains(expected), "{interface}: {text}");
    }
    let Some(net) = Net::new("e", 1) else { return };
    let text = said(net.bench("--interface va,vb --xdp-mode zerocopy --sizes 64"));
    assert!(text.contains("--xdp-mode auto"), "{text}");
    net.ip("link set vb mtu 1400");
    let text = said(net.bench("--interface va,vb"));
    assert!(text.contains("link set vb mtu 1500"), "{text}");
    net.ip("link set va down");
    let text = said(net.bench("--interface va,vb --sizes 64"));
    assert!(text.contains("link set va up"), "{text}");
    // Two ends of different pairs hear nothing of one another.
    net.ip("link add vc type veth peer name vd");
    for device in ["va", "vc", "vd"] {
        net.ip(&format!("link set {device} up"));
    }
    let text = said(net.bench("--interface vc,vb --sizes 64"));
    assert!(text.contains("cabled to one another"), "{text}");
}
