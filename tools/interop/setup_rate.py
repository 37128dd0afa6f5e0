#!/usr/bin/env python3
"""Set-ups a second and the responder's CPU for each: Culvert and strongSwan, one after the other, with one load generator.

  setup_rate.py [--binary target/release/culvert] [--count 1000] [--rounds 3] [--case NAME ...] [--delete] [--json FILE]

The generator (tools/examples/set_ups.rs) is Culvert's own engine over UDP sockets; what is measured is the process that
answers, user and system time of all its threads. Needs root and `cargo build --release --example set_ups`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from lab import ROOT, Charon, Culvert, Lab, check

CONFIG = """
connections {{
  gw {{
    version = {version}
    local_addrs = 192.168.77.{own}
    remote_addrs = 192.168.77.{other}
    proposals = {ike}
    mobike = no
    encap = no
    rekey_time = 0
    reauth_time = 0
    dpd_delay = 0
    unique = never
    local {{
      auth = psk
      id = {own_id}
    }}
    remote {{
      auth = psk
      id = {other_id}
    }}
    children {{
      net {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {esp}
        rekey_time = 0
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = set-up-rate-0123456789
  }}
}}
"""
# Each bound on strangers is lifted at both: it is set-ups that are counted, not refusals.
CULVERT = "  ike {\n    cookie_threshold = 0\n    block_threshold = 0\n  }\n"
# No log, a hashed table of SAs, no routes: charon at its best.
CHARON = "  dos_protection = no\n  cookie_threshold_ip = 0\n  cookie_threshold = 0\n  block_threshold = 0\n  install_routes = no\n  ikesa_table_size = 1024\n  ikesa_table_segments = 16\n"

CASES = {
    "ikev1-modp2048": (1, "aes128-sha256-modp2048", "aes128-sha256"),
    "ikev1-modp2048-pfs": (1, "aes128-sha256-modp2048", "aes128-sha256-modp2048"),
    "ikev2-modp2048": (2, "aes128-sha256-modp2048", "aes128-sha256"),
    "ikev2-x25519": (2, "aes128-sha256-curve25519", "aes128-sha256"),
}


def config(case, own):
    version, ike, esp = CASES[case]
    sides = {1: ("%any", "10.128.0.0/9", "x.gen.test"), 2: ("%any", "10.77.2.0/24", "gw.test")}
    other = 3 - own
    return CONFIG.format(
        version=version, ike=ike, esp=esp, own=own, other=other, own_id=sides[own][2],
        other_id="%any" if own == 2 else sides[other][2], local_ts=sides[own][1], remote_ts=sides[other][1],
    )


def cpu(pid):
    """Seconds of user and system time."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")



def run(options, case, who):
    """One responder, `count` set-ups in quarters; returns seconds and CPU seconds of each."""
    lab = Lab(options.binary, options.prefix)
    try:
        a, b = lab.pair()
        if who == "culvert":
            responder = Culvert(b, config(case, 2), CULVERT)
        else:
            responder = Charon(b, config(case, 2), CHARON, log=-1)
        time.sleep(0.5)
        pid = responder.process.pid
        generator_config = lab.dir / "generator.conf"
        generator_config.write_text(config(case, 1))
        generator_config.chmod(0o600)
        end = "delete" if options.delete else "keep"
        process = subprocess.Popen(
            a.command(options.generator, generator_config, options.count, options.at_once, end),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        lab.processes.append(process)
        quarters, before = [], cpu(pid)
        for _ in range(4):
            line = process.stdout.readline()
            check(line, f"{who} {case}: the generator ended")
            after = cpu(pid)
            quarters.append({**json.loads(line), "cpu": after - before})
            before = cpu(pid)
            process.stdin.write("\n")
            process.stdin.flush()
        check(process.wait(timeout=10) == 0, "the generator failed")
        if who == "culvert":
            row = "main_mode.ike_main_mode"
            check(responder.rows(row) == [options.count], f"{row}: {responder.rows(row)}")
        return quarters
    finally:
        lab.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "culvert")
    parser.add_argument("--generator", default=ROOT / "target" / "release" / "examples" / "set_ups")
    parser.add_argument("--prefix", default="rate")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delete", action="store_true", help="end the SAs after each quarter")
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--who", action="append", choices=("culvert", "strongswan"))
    parser.add_argument("--json")
    options = parser.parse_args()
    found = []
    print(f"{'case':22}{'responder':12}{'set-ups/s':>10}{'CPU ms each':>13}{'by quarters':>32}")
    for case in options.case or CASES:
        costs = {}
        for who in options.who or ("strongswan", "culvert"):
            rounds = [run(options, case, who) for _ in range(options.rounds)]
            each = [1000 * sum(q["cpu"] for q in r) / options.count for r in rounds]
            rate = [options.count / sum(q["seconds"] for q in r) for r in rounds]
            costs[who] = statistics.median(each)
            last = " ".join(f"{1000 * q['cpu'] / q['set_ups']:.2f}" for q in rounds[each.index(costs[who])] ) if options.rounds % 2 else ""
            print(f"{case:22}{who:12}{statistics.median(rate):10.0f}{costs[who]:13.2f}{last:>32}", flush=True)
            found.append({"case": case, "responder": who, "set_ups_per_second": rate, "cpu_ms": each, "rounds": rounds})
        if len(costs) == 2:
            print(f"{case:22}{'ratio':12}{'':10}{costs['culvert'] / costs['strongswan']:13.2f}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
