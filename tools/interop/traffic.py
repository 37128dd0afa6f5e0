"""Numbered traffic between two hosts, and what the gateway's counters have to say of it."""

import json
import subprocess
import sys
import time

from lab import HERE, check, eventually


def moved_exactly(ours, names, before, expected, what):
    """The rows moved by exactly that much. A worker that is preempted publishes a little after the packet is out."""
    def moved():
        return [now - then for now, then in zip(ours.rows(*names), before)]
    end = time.monotonic() + 2
    while moved() != expected and time.monotonic() < end:
        time.sleep(0.05)
    found = moved()
    check(found == expected, f"{what}: {dict(zip(names, found))}, not {expected}")


def accounted(ours):
    """The accounting identity of every worker, once nothing moves."""
    def holds():
        return all(worker["accounting"]["balanced"] for worker in ours.stats()["workers"])
    eventually("the accounting identity", holds, seconds=3)


def numbered_traffic(here, there, net, rate, seconds, flows=1):
    """Starts numbered packets both ways; the result is read with `outcome`."""
    count = int(rate * seconds)
    runs = []
    for source, target, (near, far) in ((here, there, net), (there, here, net[::-1])):
        receiver = subprocess.Popen(
            target.command(sys.executable, HERE / "sequence.py", "receive", far, 7000, count, 2),
            stdout=subprocess.PIPE, text=True)
        runs.append((source, receiver, near, far))
    time.sleep(0.5)
    senders = [
        subprocess.Popen(source.command(sys.executable, HERE / "sequence.py", "send", far, near, 7000, rate, count, flows),
                         stdout=subprocess.PIPE, text=True)
        for source, _, near, far in runs
    ]
    here.lab.processes += senders + [receiver for _, receiver, _, _ in runs]
    return senders, [receiver for _, receiver, _, _ in runs]


def outcome(senders, receivers, seconds):
    sent = [json.loads(p.communicate(timeout=seconds + 60)[0]) for p in senders]
    got = [json.loads(p.communicate(timeout=60)[0]) for p in receivers]
    return sent, got
