//! `culvert bench` runs, verifies what comes out, and says so; what it measures in a test means nothing.

#![expect(clippy::expect_used, reason = "a test that cannot run fails")]

use std::process::{Command, Output};

fn bench(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert"))
        .arg("bench")
        .args(arguments.split(' '))
        .output()
        .expect("the command starts")
}

fn points(arguments: &str) -> Vec<serde_json::Value> {
    let output = bench(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["points"].as_array().expect("points").clone()
}

const QUICK: &str = "--seconds 0.05 --repetitions 1 --json";

#[test]
fn a_short_run_verifies_both_ways() {
    let points = points(&format!("{QUICK} --sizes 64"));
    assert_eq!(
        points.iter().map(|p| p["direction"].as_str()).collect::<Vec<_>>(),
        [Some("out"), Some("in")]
    );
    for point in points {
        let path = &point["path"];
        // A pass before the samples, and one after them.
        assert_eq!(path["verified"], 2 * 8192);
        assert!(path["gateway"]["median"].as_f64() > path["device"]["median"].as_f64());
        for cipher in ["culvert", "ring", "aws-lc-rs", "aes-gcm", "copy"] {
            assert!(point["aead"][cipher]["median"].as_f64() > Some(0.0), "{cipher}");
        }
    }
}

#[test]
fn many_sas_and_policies_two_workers_esn_and_every_suite_verify() {
    for suite in ["aes128gcm16", "aes192gcm16", "aes256gcm16"] {
        let parameters =
            "--sizes 41,1438 --sas 700 --workers 2 --bursts 7 --esn --frames 256 --policies 999";
        let points = points(&format!("{QUICK} {parameters} --suite {suite}"));
        assert_eq!(points.len(), 4);
        assert!(points.iter().all(|p| p["path"]["verified"] == 4 * 256));
    }
}

#[test]
fn many_samples_show_what_a_quiet_machine_takes() {
    let output = bench("--seconds 0.2 --repetitions 20 --sizes 64 --direction out --frames 256");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.lines().any(|line| line.contains("if quiet") && line.len() <= 80), "{table}");
    assert!(!table.contains("NaN"), "{table}");
}

#[test]
fn a_burst_beyond_the_workers_has_no_path() {
    let points = points(&format!("{QUICK} --sizes 64 --bursts 256"));
    assert!(points.iter().all(|p| p["path"].is_null() && p["aead"]["culvert"].is_object()));
}

#[test]
fn a_mix_of_lengths_verifies_both_ways() {
    let points = points(&format!("{QUICK} --sizes imix --sas 5 --frames 1200"));
    assert_eq!(points.len(), 2);
    assert!(points.iter().all(|p| p["size"] == "imix" && p["path"]["verified"] == 2 * 1200));
}

#[test]
fn packets_handed_to_the_worker_that_owns_their_sa_verify() {
    let points =
        points(&format!("{QUICK} --sizes 64 --sas 10 --workers 2 --handoff 50 --frames 256"));
    assert_eq!(points.len(), 2);
    assert!(points.iter().all(|p| p["path"]["verified"] == 4 * 256));
}

#[test]
fn beyond_what_the_gateway_takes_packets_wait_and_are_lost() {
    let points = points(&format!("{QUICK} --sizes 64 --loads 10,400 --direction out"));
    let loads = points[0]["path"]["loads"].as_array().expect("loads");
    let (light, heavy) = (&loads[0], &loads[1]);
    let median = |load: &serde_json::Value| load["latency_ns"]["p50"].as_u64();
    assert!(heavy["lost"].as_u64() > Some(0) && median(heavy) > median(light), "{loads:?}");
}

#[test]
fn the_tables_fit_a_terminal() {
    let output = bench("--seconds 0.02 --repetitions 1 --sizes 64,imix --sas 1,100 --loads 50");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.lines().count() > 15, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for arguments in [
        "--bursts 0",
        "--sas 1000001",
        "--policies 1000001",
        "--workers 65",
        "--seconds 0",
        "--sizes 39",
        "--handoff 50",
        "--loads 0",
    ] {
        let output = bench(arguments);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments}");
        assert!(output.stdout.is_empty(), "{arguments}");
    }
}
