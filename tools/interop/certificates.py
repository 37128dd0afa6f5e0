"""Certificates opposite strongSwan: each kind of key, both ways, a chain in fragments, and peers that are not to be believed."""

import os

from lab import Charon, Culvert, check, eventually, scenario, sh
from pki import PAST, Pki

TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


def directories(lab):
    """Where each kind of gateway looks for its files, by the name of its host."""
    return {
        name: (lab.dir / f"charon-{name}" / "swanctl", lab.dir / f"culvert-{name}") for name in ("A", "B")
    }


def pair(lab, name, role, changed=lambda side, text: text):
    """Culvert in its role (the initiator is A) and strongSwan at the other end; the files of both are in place."""
    hosts = dict(zip("AB", lab.pair()))
    here, there = ("A", "B") if role == "initiator" else ("B", "A")
    conf = {side: changed(side, scenario(name, side.lower())) for side in hosts}
    return Culvert(hosts[here], conf[here]), Charon(hosts[there], conf[there]), hosts[here]


def initiate(ours, peer, role):
    if role == "initiator":
        return ours.initiate(ok=False)
    return peer.swanctl("--initiate", "--child", "net", "--timeout", 8, ok=False)


def up(lab, name, role, said, changed=lambda side, text: text):
    """One tunnel, with traffic; `said` is what strongSwan's log has of our signature."""
    ours, peer, here = pair(lab, name, role, changed)
    works(ours, peer, here, role, said)


def works(ours, peer, here, role, said):
    done = initiate(ours, peer, role)
    check(done.returncode == 0, f"{done.stdout[-300:]} {done.stderr[-300:]} {ours.tail()}")
    own, other, name = (1, 2, "a") if role == "initiator" else (2, 1, "b")
    here.ping(f"10.77.{own}.1", f"10.77.{other}.1", size=500)
    rows = ("main_mode.ike_main_mode", "main_mode.ike_quick_mode", "main_mode.authentication_failures",
            "main_mode.negotiation_failures", "quick_mode.active_sas")
    found = dict(zip(rows, ours.rows(*rows)))
    check(list(found.values()) == [1, 1, 0, 0, 1], f"{found}")
    moved = ("quick_mode.confidential_bytes_sent", "quick_mode.confidential_bytes_received")
    eventually("three pings of 528 bytes", lambda: ours.rows(*moved) == [3 * 528] * 2, seconds=2)
    said = f"authentication of '{name}.interop.test' with {said}"
    check(said in peer.text(), f"strongSwan does not say: {said}")
    ours.command("terminate", "--ike", "gw")
    eventually("strongSwan's SA to go", lambda: not peer.swanctl("--list-sas").stdout.strip())


def plain(lab, kind):
    pki = Pki(lab.dir, kind)
    for name in ("a", "b"):
        pki.issue(name)
    for name, folders in directories(lab).items():
        for folder in folders:
            pki.provide(folder, name.lower())
    return pki


def both_ways(kind, said):
    def one(role):
        def run(lab):
            plain(lab, kind)
            up(lab, f"ikev2-{kind}", role, said)

        return run

    for role in ("initiator", "responder"):
        TESTS[f"strongswan_{kind}_{role}"] = one(role)


both_ways("rsa", "RSA_EMSA_PKCS1_SHA2_256 successful")
both_ways("ecdsa", "ECDSA_WITH_SHA256_DER successful")
both_ways("ed25519", "ED25519 successful")


def in_fragments(lab, role):
    """An authority between, and a certificate of 4 KB: IKE_AUTH needs fragments; PSS with SHA-512, by configuration."""
    pki = Pki(lab.dir, "rsa")
    pki.issue("sub", "--ca", "--pathlen", 0, sans=[])
    fat = [f"a-very-long-subject-alternative-name-number-{n}.interop.test" for n in range(60)]
    for name in ("a", "b"):
        pki.issue(name, ca="sub", sans=[f"{name}.interop.test", *fat], unit="chain")
    for name, folders in directories(lab).items():
        for folder in folders:
            pki.provide(folder, name.lower(), below=("sub",))

    def pss(side, text):
        return text.replace("auth = pubkey", "auth = rsa/pss-sha512", 1)

    up(lab, "ikev2-rsa", role, "RSA_EMSA_PSS_SHA2_512", pss)


@test
def strongswan_rsa_chain_initiator(lab):
    in_fragments(lab, "initiator")


@test
def strongswan_rsa_chain_responder(lab):
    in_fragments(lab, "responder")


def main_mode(kind, said):
    """IKEv1, with the scenario's file; its certificates are RSA's, so that of another kind stand in for them."""
    def one(role):
        def run(lab):
            plain(lab, kind)
            up(lab, "ikev1-cert", role, said, lambda side, text: text.replace("rsa-", f"{kind}-"))

        return run

    for role in ("initiator", "responder"):
        TESTS[f"strongswan_ikev1_{kind}_{role}"] = one(role)


main_mode("rsa", "RSA_EMSA_PKCS1_NULL successful")
main_mode("ecdsa", "ECDSA_WITH_NULL successful")


@test
def swanctl_loads_certificates(lab):
    """All of the scenario comes from swanctl over VICI: connection, certificates, authority and key."""
    pki = Pki(lab.dir, "ecdsa")
    for name in ("a", "b"):
        pki.issue(name)
    mine = lab.dir / "swanctl-A"
    pki.provide(mine, "a")
    pki.provide(directories(lab)["B"][0], "b")
    (mine / "swanctl.conf").write_text(scenario("ikev2-ecdsa", "a"))
    here, there = lab.pair()
    ours = Culvert(here, "", "  ports {\n    wan {\n      interface = wan0\n    }\n  }\n")
    peer = Charon(there, scenario("ikev2-ecdsa", "b"))
    environment = {**os.environ, "SWANCTL_DIR": str(mine), "STRONGSWAN_CONF": str(peer.dir / "strongswan.conf")}
    for _ in range(2):
        sh("swanctl", "--load-all", "--uri", f"unix://{ours.socket}", env=environment)
    works(ours, peer, here, "initiator", "ECDSA_WITH_SHA256_DER successful")


@test
def bad_certificates_fail(lab):
    """Expired, of a stranger's authority, revoked, for another name: nobody comes up, and it is counted by method."""
    pki = plain(lab, "ecdsa")
    (lab.dir / "other").mkdir()
    strangers = Pki(lab.dir / "other", "ecdsa", "Strange CA")
    (strangers.dir / "b.key").write_text((pki.dir / "b.key").read_text())
    strangers.issue("b")
    pki.issue("b-expired", key="b", valid=PAST)
    pki.issue("b-renamed", key="b", sans=["c.interop.test"])
    pki.revoke("b")
    ours, peer, here = pair(lab, "ikev2-ecdsa", "initiator")
    folders = directories(lab)
    theirs, own = folders["B"][0], folders["A"][1]
    cases = [
        ("expired", pki.dir / "b-expired.crt", "has expired"),
        ("a stranger's authority", strangers.dir / "b.crt", "no trusted authority issued"),
        ("another name", pki.dir / "b-renamed.crt", "proves the peer's identity"),
        ("revoked", pki.dir / "b.crt", "is revoked"),
    ]
    failures = 0
    for what, certificate, said in cases:
        (theirs / "x509" / "ecdsa-b.crt").write_text(certificate.read_text())
        peer.swanctl("--load-all", "--clear")
        if what == "revoked":
            check(ours.log.read_text().count("is revoked") == 0, "nothing is revoked yet")
            (own / "x509crl" / "ca.crl").write_text((pki.dir / "ca.crl").read_text())
            ours.command("reload")
        # An identity that is not in the certificate makes strongSwan take the subject: then ours has no such peer.
        for role in ("initiator", "responder"):
            before = ours.log.read_text()
            done = initiate(ours, peer, role)
            check(done.returncode != 0, f"{what}, {role}: the SA came up")
            failures += 1
            rows = ours.rows("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.ike_main_mode")
            check(rows == [failures, failures, 0], f"{what}, {role}: {rows}, not {failures} failures of each")
            after = ours.log.read_text()[len(before):]
            if what != "another name":
                check(said in after, f"{what}, {role}: the log says {after[-400:]}")
    metrics = sh(lab.binary, "stats", "--file", ours.segment, "--format", "openmetrics").stdout
    counted = [line for line in metrics.splitlines() if 'method="certificate"' in line]
    check(counted and counted[0].split()[-1] == str(failures), f"by method: {counted}")
