"""IKEv1 with everything from both sides: main modes begun at once, renewals of both, rekeys of both, with pings all the time."""

import threading

from lab import Charon, Culvert, check, eventually, scenario

TESTS = {}

# A quick mode after 5 s, a main mode after 7 s, by both sides' own timers, which nothing keeps apart.
SHORT = {"reauth_time = 12": "reauth_time = 7", "over_time = 10": "over_time = 5", "life_time = 20": "life_time = 12"}

PINGS = 230


def conf(side):
    text = scenario("ikev1-rekey", side)
    for old, new in SHORT.items():
        text = text.replace(old, new)
    return text


def at_once(*begins):
    threads = [threading.Thread(target=begin) for begin in begins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serves(here, net, ends):
    """No ping is lost in twelve seconds, and there are not more and more SAs."""
    here.ping(*net)
    answered = here.ping(*net, count=PINGS, interval=0.05, ok=False)
    found = [end.rows("quick_mode.rekeys", "main_mode.ike_main_mode", "main_mode.isadb_list_size", "quick_mode.active_sas")
             for end in ends]
    for end, (rekeys, main, isakmp, pairs) in zip(ends, found):
        check(rekeys >= 2 and main >= 2, f"{rekeys} rekeys, {main} main modes: {found}")
        check(isakmp <= 8 and pairs <= 8, f"{isakmp} ISAKMP SAs, {pairs} pairs")
    check(answered == PINGS, f"{answered} of {PINGS} pings answered; {[end.drops() for end in ends]} {found}")
    print(f"    {PINGS} of {PINGS} pings; rekeys, main modes, ISAKMP SAs, pairs: {found}")


def both_begin(lab):
    """Opposite strongSwan, both sides begin at once and both renew."""
    a, b = lab.pair()
    ours, peer = Culvert(a, conf("a")), Charon(b, conf("b"))
    at_once(ours.initiate, lambda: peer.swanctl("--initiate", "--child", "net", "--timeout", 4, ok=False))
    serves(a, ("10.77.1.1", "10.77.2.1"), [ours])


def both_renew(lab):
    """Opposite strongSwan, which began; both sides renew."""
    a, b = lab.pair()
    ours, peer = Culvert(b, conf("b")), Charon(a, conf("a"))
    peer.swanctl("--initiate", "--child", "net", "--timeout", 10)
    serves(b, ("10.77.2.1", "10.77.1.1"), [ours])


def two_of_ours(lab):
    """Two Culverts begin at once and both renew; when one ends it, nothing is left of it at the other."""
    a, b = lab.pair()
    ends = [Culvert(a, conf("a")), Culvert(b, conf("b"))]
    at_once(*(lambda end=end: end.initiate(ok=False) for end in ends))
    serves(a, ("10.77.1.1", "10.77.2.1"), ends)
    ends[0].command("terminate", "--ike", "gw")
    for end in ends:
        eventually("the end of all", lambda end=end: end.rows("quick_mode.active_sas") == [0], seconds=5)


TESTS["ikev1_both_begin_opposite_strongswan"] = both_begin
TESTS["ikev1_both_renew_opposite_strongswan"] = both_renew
TESTS["ikev1_both_begin_two_of_ours"] = two_of_ours
