#!/usr/bin/env python3
"""Runs third-party known answers of the dataplane through `culvert kat` and counts them.

  vectors.py [--binary CULVERT] [--verbose] FOLDER

FOLDER holds any of these, plain or gzipped, at any depth: Wycheproof's aes_gcm, chacha20_poly1305, aes_cbc_pkcs5,
aes_cmac, hmac_*; ACVP's AES-CTR, AES-GMAC and HMAC internalProjections; aes_gcm_iv96 and aes_cbc (CAVP as JSON);
esp_ah_packets; replay_sequences; answers_*, which are requests with their answers. Other files are skipped. A case is right, unsupported (the program says so), or
wrong; the status is 1 when any is wrong. At the end: why what is unsupported is, by what was asked.
"""

import argparse
import collections
import gzip
import json
import sys
from pathlib import Path

import runner


def wycheproof_aead(alg):
    def cases(data):
        for group in data["testGroups"]:
            for test in group["tests"]:
                valid = test["result"] == "valid"
                base = {"alg": alg, "key": test["key"], "nonce": test["iv"], "aad": test["aad"], "tag_len": group["tagSize"] // 8}
                sealed = {"cipher": test["ct"], "tag": test["tag"]}
                yield from aead(f"tc{test['tcId']}", base, test["msg"], sealed, valid)

    return cases


def aead(name, base, plain, sealed, valid):
    yield f"{name} open", {"op": "aead_open", **base, **sealed}, {"plain": plain} if valid else "auth"
    if valid:
        yield f"{name} seal", {"op": "aead_seal", **base, "plain": plain}, sealed


def wycheproof_cbc(data):
    """The operation neither adds nor removes padding: both are done here."""
    for group in data["testGroups"]:
        for test in group["tests"]:
            base = {"op": "cipher", "alg": "AES_CBC", "key": test["key"], "iv": test["iv"]}
            pad = 16 - len(test["msg"]) // 2 % 16
            padded = test["msg"] + f"{pad:02x}" * pad
            if test["result"] == "valid":
                yield f"tc{test['tcId']} encrypt", {**base, "dir": "encrypt", "in": padded}, {"out": test["ct"]}
                yield f"tc{test['tcId']} decrypt", {**base, "dir": "decrypt", "in": test["ct"]}, {"out": padded}
            elif len(test["ct"]) % 32:
                yield f"tc{test['tcId']} decrypt", {**base, "dir": "decrypt", "in": test["ct"]}, "malformed"
            else:
                # The padding inside is bad, which is not the cipher's to see.
                yield f"tc{test['tcId']} decrypt", {**base, "dir": "decrypt", "in": test["ct"]}, lambda a: a["ok"] and a["out"] != padded


def wycheproof_mac(alg):
    def cases(data):
        for group in data["testGroups"]:
            for test in group["tests"]:
                request = {"op": "mac", "alg": alg, "key": test["key"], "msg": test["msg"], "len": group["tagSize"] // 8}
                if test["result"] == "valid":
                    yield f"tc{test['tcId']}", request, {"tag": test["tag"]}
                else:
                    yield f"tc{test['tcId']}", request, lambda a, tag=test["tag"]: a["ok"] and a["tag"] != tag

    return cases


def acvp_ctr(data):
    for group in data["testGroups"]:
        for test in group["tests"]:
            if test["payloadLen"] % 8:
                # A part of an octet: what is compared is its whole octets and the bits in front of the last.
                keep = test["payloadLen"]
            else:
                keep = len(test["pt"]) * 4
            source, target = ("pt", "ct") if group["direction"] == "encrypt" else ("ct", "pt")

            def same(answer, wanted=test[target], keep=keep):
                if not answer["ok"]:
                    return False
                shift = len(wanted) * 4 - keep
                return int(answer["out"] or "0", 16) >> shift == int(wanted or "0", 16) >> shift

            yield f"tc{test['tcId']}", {"op": "cipher", "alg": "AES_CTR", "dir": group["direction"], "key": test["key"],
                                        "iv": test["iv"], "in": test[source]}, same


def acvp_gmac(data):
    for group in data["testGroups"]:
        for test in group["tests"]:
            base = {"alg": "AES_GMAC", "key": test["key"], "nonce": test["iv"], "aad": test["aad"], "tag_len": group["tagLen"] // 8}
            sealed = {"cipher": "", "tag": test["tag"]}
            yield from aead(f"tc{test['tcId']}", base, "", sealed, test["testPassed"])


def acvp_hmac(data):
    for group in data["testGroups"]:
        for test in group["tests"]:
            if test["msgLen"] % 8 or test["macLen"] % 8 or test["keyLen"] % 8:
                continue
            alg = {"HMAC-SHA-1": "HMAC_SHA1"}.get(data["algorithm"], data["algorithm"].replace("-", "_"))
            request = {"op": "mac", "alg": alg, "key": test["key"], "msg": test["msg"], "len": test["macLen"] // 8}
            yield f"tc{test['tcId']}", request, {"tag": test["mac"]}


def cavp_gcm(data):
    for test in data["vectors"]:
        base = {"alg": "AES_GCM", "key": test["key"], "nonce": test["iv"], "aad": test["aad"], "tag_len": test["taglen"] // 8}
        name = f"{test['file']} {test['count']}"
        yield from aead(name, base, test.get("pt", ""), {"cipher": test["ct"], "tag": test["tag"]}, test["valid"])


def cavp_cbc(data):
    for test in data["vectors"]:
        direction = test["op"].lower()
        source, target = ("plaintext", "ciphertext") if direction == "encrypt" else ("ciphertext", "plaintext")
        yield f"{test['file']} {direction} {test['count']}", {
            "op": "cipher", "alg": "AES_CBC", "dir": direction, "key": test["key"], "iv": test["iv"], "in": test[source],
        }, {"out": test[target]}


def packets(data):
    for record in data["vectors"]:
        opened = {"plain": record["plain"]}
        if record.get("next_header") is not None:
            opened["next_header"] = record["next_header"]
        if record["proto"] == "ah":
            opened.pop("next_header", None)
        yield f"{record['id']} open", {"op": f"{record['proto']}_open", **record}, opened
        yield f"{record['id']} seal", {"op": f"{record['proto']}_seal", **record}, {"packet": record["packet"]}


def replay(data):
    """The step lists are for a window of 64: for it they are followed to the letter. For all other sizes the verdicts must be
    those of a set of all numbers (`oracle`)."""
    for case in data["cases"]:
        if "anti_replay" not in case:
            # `lost_counter` counts what did not come, of which this gateway keeps no counter.
            continue
        steps, expected = [], []
        for step in case["steps"]:
            if "set_state" in step:
                steps.append({"set_state": step["set_state"]})
            elif "key" in step or "shape" in step:
                # Not the window's: `a_packet_that_does_not_verify_moves_nothing` and `short` packets of the ipsec crate.
                continue
            elif "repeat" in step:
                steps += [{"seq": step["from"]}] * step["repeat"]
                if step["expect"] == "first-accept-rest-replay":
                    expected += [(1, {"expect": "accept"}), (step["repeat"] - 1, {"expect": "replay"})]
                else:
                    expected.append((step["repeat"], step))
            elif "from" in step:
                count = step["to_excl"] - step["from"]
                steps += [{"seq": n} for n in range(step["from"], step["to_excl"])]
                expected.append((count, step))
            elif "burst" in step:
                steps += [{"seq": n} for n in step["burst"]]
                expected += [(1, {"expect": verdict}) for verdict in step["expect_each"]]
            elif "tx_set_seq" in step:
                # A sender's step: `a_counter_at_its_end_refuses` of the ipsec crate.
                continue
            else:
                raise SystemExit(f"{case['id']}: {step}")
        yield case["id"], {"op": "replay", "window": case["window"], "esn": case["esn"], "steps": steps}, lambda a, e=expected: a["ok"] and follows(a["verdicts"], e)
        for window in (32, 64, 65, 128, 256, 1000, 1024, 2048, 4096, 65536):
            yield f"{case['id']} window {window}", {"op": "replay", "window": window, "esn": case["esn"], "steps": steps}, {
                "verdicts": oracle(window, case["esn"], steps)
            }


def follows(verdicts, expected):
    at = 0
    for count, step in expected:
        part, at = verdicts[at : at + count], at + count
        wanted = step["expect"]
        if wanted == "mixed":
            kinds = collections.Counter(part)
            if any(kinds.get(kind, 0) != step[kind] for kind in ("accept", "replay", "integrity") if kind in step):
                return False
        elif wanted == "drop":
            if "accept" in part:
                return False
        elif any(verdict != wanted for verdict in part):
            return False
    return at == len(verdicts)


def oracle(window, esn, steps):
    """RFC 4303 appendix A2 by arithmetic on whole numbers and a set, nothing of a bitmap."""
    top, seen, verdicts = 0, set(), []
    for step in steps:
        if "set_state" in step:
            top, seen = step["set_state"], set()
            continue
        true = step["seq"]
        low = true & 0xFFFFFFFF
        if esn:
            high, bottom = top >> 32, (top - window + 1) & 0xFFFFFFFF
            if (top & 0xFFFFFFFF) >= window - 1:
                guess = (high if low >= bottom else high + 1) << 32 | low
            else:
                guess = (high - 1 if low >= bottom else high) << 32 | low
        else:
            guess = low
        if guess <= 0 or (guess <= top - window) or guess in seen or guess >= 1 << 64:
            verdicts.append("replay")
        elif esn and guess != true:
            verdicts.append("integrity")
        else:
            seen.add(guess)
            top = max(top, guess)
            verdicts.append("accept")
    return verdicts


def answers(data):
    for number, (request, answer) in enumerate(data["cases"]):
        yield f"case {number}", request, answer


KINDS = [
    ("answers_", answers),
    ("aes_gcm_test", wycheproof_aead("AES_GCM")),
    ("chacha20_poly1305_test", wycheproof_aead("CHACHA20_POLY1305")),
    ("aes_cbc_pkcs5_test", wycheproof_cbc),
    ("aes_cmac_test", wycheproof_mac("AES_CMAC")),
    ("hmac_sha1_test", wycheproof_mac("HMAC_SHA1")),
    ("hmac_sha256_test", wycheproof_mac("HMAC_SHA2_256")),
    ("hmac_sha384_test", wycheproof_mac("HMAC_SHA2_384")),
    ("hmac_sha512_test", wycheproof_mac("HMAC_SHA2_512")),
    ("ACVP-AES-CTR", acvp_ctr),
    ("ACVP-AES-GMAC", acvp_gmac),
    ("HMAC-SHA", acvp_hmac),
    ("aes_gcm_iv96", cavp_gcm),
    ("aes_cbc.json", cavp_cbc),
    ("esp_ah_packets", packets),
    ("replay_sequences", replay),
]


def judge(answer, expected):
    if callable(expected):
        right = expected(answer)
    elif isinstance(expected, str):
        right = not answer["ok"] and answer["error"] == expected
    else:
        right = answer["ok"] and all(lower(answer[name]) == lower(value) for name, value in expected.items())
    if right:
        return "right"
    return "unsupported" if answer.get("error") == "unsupported" else "wrong"


def reason(request):
    """Why the program need not do a request; what has no reason here should have been done, and is wrong."""
    if request["op"].startswith("aead"):
        nonce, tag = len(request["nonce"]) // 2, request["tag_len"]
        if nonce != 12:
            return f"{request['alg']}: a nonce that is not of 12 bytes"
        if tag not in (8, 12, 16):
            return f"{request['alg']}: an ICV of {tag} bytes"
    elif request["op"] == "mac":
        if request["alg"] == "AES_CMAC" and len(request["key"]) // 2 not in (16, 24, 32):
            return "AES_CMAC: a key that AES does not have"
    elif request["op"] in ("esp_open", "esp_seal"):
        if request["enc"]["alg"] == "DES_CBC":
            return "ESP: single DES"
        if request["auth"]["alg"] == "NULL":
            return "ESP: encryption without integrity"
        if request["auth"]["key"] is None:
            return "ESP: a capture without its integrity key"
    return None


def lower(value):
    return value.lower() if isinstance(value, str) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--verbose", action="store_true", help="names what is unsupported")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    binary, total, reasons = args.binary or runner.default_binary(), collections.Counter(), collections.Counter()
    for path in sorted(path for path in args.folder.rglob("*.json*") if path.is_file()):
        cases = next((cases for prefix, cases in KINDS if path.name.startswith(prefix)), None)
        if cases is None:
            continue
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        todo = list(cases(json.loads(text)))
        counts = collections.Counter()
        for (name, request, expected), answer in zip(todo, runner.ask(binary, [request for _, request, _ in todo])):
            verdict = judge(answer, expected)
            if verdict == "unsupported":
                verdict = "unsupported" if (why := reason(request)) else "wrong"
                reasons[why] += 1
            counts[verdict] += 1
            if verdict == "wrong" or (args.verbose and verdict == "unsupported"):
                print(f"  {verdict} {path.name} {name}: {str(answer)[:300]}")
        total += counts
        print(f"{path.name:<50} right {counts['right']:>6}  unsupported {counts['unsupported']:>4}  wrong {counts['wrong']:>4}")
    print(f"{'all':<50} right {total['right']:>6}  unsupported {total['unsupported']:>4}  wrong {total['wrong']:>4}")
    for why, count in sorted((why, count) for why, count in reasons.items() if why):
        print(f"  unsupported {count:>4}  {why}")
    return 1 if total["wrong"] or not total["right"] else 0


if __name__ == "__main__":
    sys.exit(main())
