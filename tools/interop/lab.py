"""Hosts, wires and gateways for the interop tests: network namespaces joined by veth pairs.

Everything made here is made under one prefix and taken down by `Lab.close`: namespaces by name, processes by pid.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCENARIOS = HERE / "scenarios"


class Failed(Exception):
    """A check did not hold."""


def check(condition, text):
    if not condition:
        raise Failed(text)


def eventually(what, probe, seconds=10.0, step=0.1):
    """Waits until `probe()` is truthy and returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(step)


class Host:
    """One network namespace."""

    def __init__(self, lab, name):
        self.lab, self.name, self.ns = lab, name, f"{lab.prefix}{name}"
        self.environment = {}
        sh("ip", "netns", "add", self.ns)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *args):
        return ["ip", "netns", "exec", self.ns, *map(str, args)]

    def run(self, *args, ok=True, timeout=60, **kwargs):
        return sh(*self.command(*args), ok=ok, timeout=timeout, **kwargs)

    def start(self, *args, log=None, env=None):
        """Starts a process that `Lab.close` ends."""
        out = open(log, "ab") if log else subprocess.DEVNULL
        process = subprocess.Popen(
            self.command(*args), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, **self.environment, **(env or {})},
        )
        self.lab.processes.append(process)
        return process

    def address(self, address, device="lo"):
        family = "-6" if ":" in address else "-4"
        extra = ["nodad"] if ":" in address else []
        self.run("ip", family, "addr", "add", address, "dev", device, *extra)

    def route(self, destination, *via):
        self.run("ip", "-6" if ":" in destination else "-4", "route", "add", destination, *via)

    def counter(self, device, name):
        return int(self.run("cat", f"/sys/class/net/{device}/statistics/{name}").stdout)

    def overflowed(self):
        """Packets that found a queue of this host's kernel full: of a device, or of a socket."""
        devices = self.run("sh", "-c", "cat /sys/class/net/*/statistics/[rt]x_dropped").stdout.split()
        names, values = (line.split() for line in self.run("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Udp:"))
        return sum(map(int, devices)) + int(values[names.index("RcvbufErrors")])

    def echo_replies(self, destination):
        """Answers to pings that this host's kernel has taken."""
        if ":" in destination:
            fields = dict(line.split() for line in self.run("cat", "/proc/net/snmp6").stdout.splitlines())
            return int(fields["Icmp6InEchoReplies"])
        names, values = (line.split() for line in self.run("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Icmp:"))
        return int(values[names.index("InEchoReps")])

    def came_late(self, destination, expected):
        """Whether the kernel took as many answers in the end: ping waits for the last one no longer than its interval, or twice the
        longest round trip so far, and not for its `-W`, once it has had an answer; a busy machine may take longer."""
        end = time.monotonic() + 2
        while self.echo_replies(destination) < expected and time.monotonic() < end:
            time.sleep(0.05)
        return self.echo_replies(destination) == expected

    def ping(self, source, destination, count=3, size=56, interval=0.2, ok=True, extra=()):
        """Returns how many answers came."""
        before = self.echo_replies(destination)
        done = self.run(
            "ping", "-c", count, "-i", interval, "-W", 2, "-s", size, "-I", source, *extra, destination, ok=False
        )
        for line in done.stdout.splitlines():
            if " received" in line:
                received = int(line.split(" received")[0].split()[-1])
                seen = re.findall(r"icmp_seq=(\d+)", done.stdout)
                # Missing at the end only: what is missing between others was lost.
                at_the_end = 0 < received < count and seen == [str(n) for n in range(1, received + 1)]
                if at_the_end and self.came_late(destination, before + count):
                    print(f"    {count - received} of {count} answers came after ping had ended")
                    received = count
                if ok:
                    came = f"{received} of {count} (numbers {' '.join(seen)})"
                    check(received == count, f"ping {source} > {destination} ({size} B): {came}")
                return received
        raise Failed(f"ping {source} > {destination}: {done.stdout.strip()} {done.stderr.strip()}")

    def iperf(self, server, source, destination, seconds=2, udp=None, reverse=False):
        """Mbit/s from here to `server` (a Host), and of UDP the datagrams that were sent and those that were lost."""
        listening = server.start("iperf3", "-s", "-1", "-B", destination)
        time.sleep(0.4)
        args = ["iperf3", "-c", destination, "-B", source, "-t", seconds, "-J"]
        args += ["-u", "-b", udp, "-l", 1200] if udp else []
        args += ["-R"] if reverse else []
        done = self.run(*args, ok=False, timeout=seconds + 30)
        stop(listening)
        try:
            end = json.loads(done.stdout)["end"]
            if udp:
                return end["sum"]["bits_per_second"] / 1e6, (end["sum"]["packets"], end["sum"]["lost_packets"])
            return end["sum_received"]["bits_per_second"] / 1e6, (0, 0)
        except (ValueError, KeyError) as error:
            raise Failed(f"iperf3 {source} > {destination}: {done.stdout[-300:]} {done.stderr[-300:]}") from error


class Charon:
    """strongSwan with its userspace ESP (kernel-libipsec), for kernels without ESP of their own."""

    def __init__(self, host, conf, settings="", log=1):
        self.host, self.dir = host, host.lab.dir / f"charon-{host.name}"
        for folder in ("x509", "x509ca", "x509crl", "private", "conf.d", "pubkey", "run"):
            (self.dir / "swanctl" / folder).mkdir(parents=True, exist_ok=True)
        (self.dir / "run").mkdir(exist_ok=True)
        self.socket, self.log = self.dir / "charon.vici", self.dir / "charon.log"
        self.log.unlink(missing_ok=True)
        self.conf(conf)
        (self.dir / "strongswan.conf").write_text(
            f"""charon-systemd {{
  load = random drbg nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints aes sha1 sha2 hmac kdf gcm ccm ctr cmac xcbc chapoly curve25519 fips-prf kernel-libipsec kernel-netlink socket-default vici updown attr counters xauth-generic
  retransmit_tries = 3
  retransmit_timeout = 1.0
  delete_rekeyed_delay = 1
{settings}
  plugins {{
    vici {{ socket = unix://{self.socket} }}
  }}
  filelog {{
    l {{
      path = {self.log}
      time_format = %H:%M:%S
      flush_line = yes
      default = {log}
      ike_name = yes
    }}
  }}
}}
swanctl {{
  load = random openssl pem pkcs1 pkcs8 x509 pubkey aes sha1 sha2 hmac
}}
"""
        )
        self.process = host.start(
            "sh",
            "-c",
            f"mount --bind {self.dir}/run /run && exec /usr/sbin/charon-systemd",
            log=self.dir / "stdout.log",
            env={"STRONGSWAN_CONF": str(self.dir / "strongswan.conf"), "SWANCTL_DIR": str(self.dir / "swanctl")},
        )
        eventually("charon's socket", self.socket.exists)
        self.swanctl("--load-all")

    def conf(self, text):
        (self.dir / "swanctl" / "swanctl.conf").write_text(text)

    def swanctl(self, *args, ok=True, timeout=30):
        env = {
            **os.environ,
            "STRONGSWAN_CONF": str(self.dir / "strongswan.conf"),
            "SWANCTL_DIR": str(self.dir / "swanctl"),
        }
        return sh("swanctl", *args, "--uri", f"unix://{self.socket}", ok=ok, timeout=timeout, env=env)

    def text(self):
        return self.log.read_text()

    def stop(self):
        stop(self.process)
        self.socket.unlink(missing_ok=True)


class Culvert:
    """The gateway under test."""

    def __init__(self, host, conf, gateway="", start=True):
        self.host, self.dir = host, host.lab.dir / f"culvert-{host.name}"
        self.dir.mkdir(exist_ok=True)
        self.socket, self.segment, self.log = self.dir / "vici", self.dir / "stats", self.dir / "log"
        self.config = self.dir / "culvert.conf"
        self.write(conf, gateway)
        self.process = None
        if start:
            self.start()

    def write(self, conf, gateway=""):
        settings = f"""
gateway {{
  statistics {{
    file = {self.segment}
  }}
  vici {{
    socket = {self.socket}
  }}
{gateway}
}}
"""
        self.config.write_text(conf + settings)
        self.config.chmod(0o600)

    def start(self):
        self.starts = self.said_running()
        self.process = self.host.start(
            self.host.lab.binary, "run", "--config", self.config, log=self.log, env={"RUST_BACKTRACE": "1"}
        )
        eventually(f"culvert on {self.host.name}", self.ready, seconds=15)

    def ready(self):
        check(self.process.poll() is None, f"culvert on {self.host.name} ended: {self.tail()}")
        return self.said_running() > self.starts

    def said_running(self):
        """How often it was ready: until then it drops what it will protect."""
        return self.log.read_text(errors="replace").count("daemon::run: running") if self.log.exists() else 0

    def tail(self, lines=8):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def command(self, *args, ok=True, timeout=30):
        return sh(self.host.lab.binary, *args, "--socket", self.socket, ok=ok, timeout=timeout)

    def initiate(self, child="net", ok=True):
        return self.command("initiate", "--child", child, ok=ok)

    def stats(self):
        return json.loads(sh(self.host.lab.binary, "stats", "--file", self.segment, "--format", "json").stdout)

    def rows(self, *names):
        """Values of catalogue rows, as `main_mode.key_additions`."""
        found = self.stats()
        return [value(found, name) for name in names]

    def workers(self):
        """All figures of each worker."""
        found = sh(self.host.lab.binary, "stats", "--file", self.segment, "--format", "json", "--per-worker").stdout
        return json.loads(found)["workers"]

    def rows_of_port(self, instance, name):
        """A figure of one queue of a port."""
        blocks = self.stats()["blocks"]
        return next(b for b in blocks if b["name"] == "port" and b["instance"] == instance)["values"][name]

    def drops(self):
        """Drop causes that have counted anything."""
        return {cause: count for cause, count in drops(self.stats()).items() if count}

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(timeout=15)


def value(stats, name):
    table, row = name.split(".")
    return stats[table][row]


def drops(stats):
    return {entry["cause"]: entry["packets"] for entry in stats["drops"]}


class Lab:
    """All hosts of one test."""

    def __init__(self, binary, prefix="cvi"):
        self.binary = str(binary)
        self.prefix, self.lock = claim(prefix)
        self.dir = Path(tempfile.mkdtemp(prefix="culvert-interop-"))
        self.hosts, self.processes = {}, []

    def host(self, name):
        self.hosts[name] = Host(self, name)
        return self.hosts[name]

    def wire(self, a, device_a, b, device_b, queues=1):
        """A veth pair whose ends compute their own checksums (transmit offload off)."""
        count = ["numrxqueues", queues, "numtxqueues", queues]
        sh("ip", "link", "add", device_a, "netns", a.ns, *count, "type", "veth",
           "peer", "name", device_b, "netns", b.ns, *count)
        for host, device in ((a, device_a), (b, device_b)):
            host.run("ethtool", "-K", device, "tx", "off", ok=False)
            host.run("ip", "link", "set", device, "up")

    def pair(self, queues=1):
        """Two gateways on one wire, with networks behind them on their own loopback."""
        a, b = self.host("A"), self.host("B")
        self.wire(a, "wan0", b, "wan0", queues)
        for host, n in ((a, 1), (b, 2)):
            host.address(f"192.168.77.{n}/24", "wan0")
            host.address(f"fd77::{n}/64", "wan0")
            host.address(f"10.77.{n}.1/32")
            host.address(f"fd77:{n}::1/128")
        return a, b

    def chain(self, queues=1):
        """client - gateway - gateway - server."""
        client, left, right, server = (self.host(n) for n in ("C", "L", "R", "S"))
        self.wire(client, "eth0", left, "lan0", queues)
        self.wire(left, "wan0", right, "wan0", queues)
        self.wire(right, "lan0", server, "eth0", queues)
        for gateway, n in ((left, 1), (right, 2)):
            gateway.address(f"192.168.77.{n}/24", "wan0")
            gateway.address(f"fd77::{n}/64", "wan0")
            gateway.address(f"10.77.{n}.254/24", "lan0")
            gateway.address(f"fd77:{n}::fe/64", "lan0")
        for host, n in ((client, 1), (server, 2)):
            host.address(f"10.77.{n}.10/24", "eth0")
            host.address(f"fd77:{n}::10/64", "eth0")
            host.route("default", "via", f"10.77.{n}.254")
            host.route("::/0", "via", f"fd77:{n}::fe")
        return client, left, right, server

    def capture(self, host, device, filter=""):
        """tcpdump into a file; returns (process, path)."""
        path = self.dir / f"{host.name}-{device}.pcap"
        process = host.start("tcpdump", "-i", device, "-U", "--immediate-mode", "-w", path, *filter.split())
        eventually("tcpdump", lambda: path.exists() and path.stat().st_size >= 24)
        time.sleep(0.2)
        return process, path

    def close(self, keep=False):
        for process in reversed(self.processes):
            stop(process)
        for host in self.hosts.values():
            sh("ip", "netns", "del", host.ns, ok=False)
        self.lock.close()
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def claim(prefix):
    """The first of `prefix`, `prefix`1 and so on that no other run has now, and the lock that says so.

    A run that was killed leaves its namespaces behind, with what ran in them. Its lock went with it, so whoever has the lock
    takes them down.
    """
    for number in ("", *range(1, 10)):
        claimed = f"{prefix}{number}"
        lock = open(f"/run/culvert-interop-{claimed}.lock", "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        for line in sh("ip", "netns", "list").stdout.splitlines():
            name = line.split()[0]
            # A host's name is one letter.
            if name[:-1] == claimed and name[-1].isupper():
                remove(name)
        return claimed, lock
    raise Failed(f"ten runs have the prefixes {prefix} to {prefix}9 already: give another by --prefix")


def remove(namespace):
    for pid in sh("ip", "netns", "pids", namespace, ok=False).stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    sh("ip", "netns", "del", namespace, ok=False)


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sh(*args, ok=True, timeout=60, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout, check=False, **kwargs)
    if ok and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, args))}: {done.returncode} {done.stdout[-400:]} {done.stderr[-400:]}")
    return done


def scenario(name, side):
    return (SCENARIOS / name / f"{side}.conf").read_text()
