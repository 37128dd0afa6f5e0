"""What strongSwan's own swanctl, and this project's command, are told over the VICI socket."""

import json
import os

from lab import Culvert, check, eventually, scenario, sh, stop

TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


def swanctl(gateway, *args, ok=True):
    return sh("swanctl", *args, "--uri", f"unix://{gateway.socket}", ok=ok, timeout=30, env=quiet(gateway))


def quiet(gateway):
    """swanctl without the host's configuration of strongSwan."""
    empty = gateway.dir / "strongswan.conf"
    empty.write_text("swanctl {\n}\n")
    return {**os.environ, "STRONGSWAN_CONF": str(empty)}


def listen(gateway, *args):
    """swanctl that goes on listening; a function that gives what it has said."""
    log = gateway.dir / ("".join(args).strip("-") + ".out")
    # Line by line, as a terminal would show it.
    process = gateway.host.start(
        "stdbuf", "-oL", "swanctl", *args, "--uri", f"unix://{gateway.socket}", log=log, env=quiet(gateway)
    )
    return process, lambda: log.read_text(errors="replace")


@test
def swanctl_listens(lab):
    """swanctl --monitor-sa, --log and --initiate show set-up, rekeys and the end, as they do of charon."""
    a, b = lab.pair()
    there, here = Culvert(b, scenario("ikev2-psk", "b")), Culvert(a, scenario("ikev2-psk", "a"))
    monitor, seen = listen(here, "--monitor-sa")
    raw, events = listen(here, "--monitor-sa", "--raw")
    logger, logged = listen(here, "--log")
    log = here.dir / "events"
    ours = here.host.start(lab.binary, "monitor", "--events", "--socket", here.socket, log=log)

    # Nothing says when a listener has registered: what is begun anew comes to it sooner or later.
    def initiated():
        said = swanctl(here, "--initiate", "--child", "net").stdout
        check("IKE_SA gw[" in said and "CHILD_SA net{" in said and "completed successfully" in said, said)
        swanctl(here, "--terminate", "--ike", "gw")
        told = "CHILD_SA net{" in logged() and "ESTABLISHED" in seen() and "child-updown event" in events()
        return told and "child-updown down" in log.read_text()

    eventually("what swanctl --log and --monitor-sa say", initiated, seconds=10)
    before, told = events(), log.read_text()
    swanctl(here, "--initiate", "--child", "net")
    a.ping("10.77.1.1", "10.77.2.1", count=2)
    rows = json.loads(here.command("show", "quick-mode-sas", "--sort", "-direction", "--json").stdout)
    check([(row["direction"], row["packets"], row["peer"]) for row in rows] ==
          [("out", "2", "10.77.2.0/24"), ("in", "2", "10.77.2.0/24")], f"{rows}")
    shown = here.command("show", "main-mode-sas", "--columns", "peer_id,authentication,encryption,state").stdout
    check(shown.split("\n")[1].split("  ")[0] == "b.interop.test" and "pre-shared key" in shown, shown)
    check("10.77.1.0/24" in here.command("show", "quick-mode-filters").stdout, "the child's selectors")
    picture = here.dir / "picture"
    live = here.host.start(
        lab.binary, "monitor", "--interval", 0.2, "--file", here.segment, "--socket", here.socket, log=picture
    )
    eventually("two pictures", lambda: picture.read_text().count("Active Security Associations") > 1, seconds=5)
    check("b.interop.test" in picture.read_text() and "10.77.2.0/24" in picture.read_text(), picture.read_text()[:2000])
    stop(live)
    here.command("rekey", "--child", "net")
    here.command("rekey", "--ike", "gw")
    said = swanctl(here, "--terminate", "--ike", "gw").stdout
    check("CHILD_SA net{" in said and "closed" in said, said)

    def kinds():
        lines = log.read_text()[len(told):].splitlines()
        return [" ".join(line.split(" ")[1:3]) for line in lines if "-updown" in line or "-rekey" in line]

    expected = ["ike-updown up", "child-updown up", "child-rekey gw", "ike-rekey gw", "child-updown down", "ike-updown down"]
    eventually("the events", lambda: "ike-updown down" in kinds(), seconds=5)
    told = [" ".join([kind.split("[")[0]]) for kind in kinds()]
    check(told == expected, f"{told}")
    # This swanctl listens to comings and goings only.
    text = events()[len(before):]
    check(text.count("updown event {") == 4 and "up=yes" in text and "state=DELETING" in text, text[:2000])
    check("remote-id=b.interop.test" in text and "spi-in=" in text, text[:2000])
    stop(ours)
    for process in (monitor, raw, logger):
        check(process.poll() is None, "swanctl goes on listening")
        stop(process)
    # Whoever has gone costs nothing and is not missed.
    swanctl(here, "--initiate", "--child", "net")
    there.stop()


@test
def reload_terminates_what_is_gone(lab):
    """`reload` leaves the SAs of a connection that is gone, `reload --terminate` closes them and no others."""
    a, b = lab.pair()
    texts = [scenario("ikev2-psk", side) for side in "ab"]
    there, here = Culvert(b, texts[1]), Culvert(a, texts[0])
    here.initiate()
    here.command("reload", "--terminate")
    check(here.rows("quick_mode.active_sas") == [1], "nothing is gone, nothing is closed")
    here.write(texts[0].replace("      net {", "      other {"))
    here.command("reload")
    check(here.rows("quick_mode.active_sas") == [1], "SAs outlive the configuration")
    here.command("reload", "--terminate")
    eventually("the child to go", lambda: here.rows("quick_mode.active_sas") == [0], seconds=5)
    sas = json.loads(here.command("show", "main-mode-sas", "--json").stdout)
    check([sa["state"] for sa in sas] == ["ESTABLISHED"], f"{sas}")
    here.write(texts[0].replace("  gw {", "  gone {"))
    here.command("reload", "--terminate")
    eventually("the IKE SA to go", lambda: here.command("show", "main-mode-sas", "--json").stdout.strip() == "[]", seconds=5)
    there.stop()
