#!/usr/bin/env python3
"""Recomputes recorded IKEv1 handshakes through `culvert kat`, to the last key, and counts.

  handshakes.py [--binary CULVERT] FILE ...

FILE has `transcripts`: messages, the preshared key, the secret and what follows from them. Keys (ikev1_keys), key material
(ikev1_keymat), every message's payload chain and every truncation of it (ike_parse), and every encrypted message with its
chain of vectors (ike_decrypt), also with a wrong key. The chain is read here a second time.
"""

import argparse
import collections
import json
import sys

import runner

PRF = {"SHA1": "PRF_HMAC_SHA1", "SHA256": "PRF_HMAC_SHA2_256"}
ENCRYPTED = 1


def chain(first, body):
    """Types and lengths of a payload chain; `None` when it does not fit."""
    found, at, kind = [], 0, first
    while kind:
        if at + 4 > len(body):
            return None
        length = int.from_bytes(body[at + 2:at + 4], "big")
        if length < 4 or at + length > len(body):
            return None
        found.append({"type": kind, "length": length, "critical": bool(body[at + 1] & 128)})
        kind, at = body[at], at + length
    return found


def cases(transcript):
    prf, messages = PRF[transcript["hash"]], [bytes.fromhex(m["hex"]) for m in transcript["messages"]]
    cookies = {"cky_i": messages[1][:8].hex(), "cky_r": messages[1][8:16].hex()}
    secrets = {"psk": transcript["psk_ascii"].encode().hex(), "ni": transcript["ni"], "nr": transcript["nr"], "gxy": transcript["g_xy"]}
    keys = {name: transcript[name] for name in ("skeyid", "skeyid_d", "skeyid_a", "skeyid_e")}
    base = {"op": "ikev1_keys", "auth": "psk", "prf": prf, **secrets, **cookies}
    yield {**base, "len": len(transcript["cipher_key"]) // 2}, {**keys, "key": transcript["cipher_key"]}
    yield base, keys
    esp = transcript.get("esp", {})
    for side, spi in (("i", "spi_inbound_of_initiator"), ("r", "spi_inbound_of_responder")):
        if spi in esp:
            keymat = next(value for name, value in esp.items() if name.startswith(f"keymat_for_spi_{side}"))
            request = {"op": "ikev1_keymat", "prf": prf, "skeyid_d": transcript["skeyid_d"], "protocol": 3, "spi": esp[spi]}
            yield {**request, "ni": transcript["quick_ni"], "nr": transcript["quick_nr"], "len": len(keymat) // 2}, {"keymat": keymat}
    for message in messages:
        head = {"version": 1, "exchange": message[18], "message_id": int.from_bytes(message[20:24], "big"),
                "spi_i": message[:8].hex(), "spi_r": message[8:16].hex()}
        clear = not message[19] & ENCRYPTED
        yield {"op": "ike_parse", "datagram": message.hex()}, {**head, "payloads": chain(message[16], message[28:])} if clear else head
        for end in range(len(message)):
            yield {"op": "ike_parse", "datagram": message[:end].hex()}, "malformed"
    encr = {"alg": "AES_CBC", "key": transcript["cipher_key"]}
    for opened in transcript["decrypted"]:
        message = messages[opened["message_index"]]
        plain = bytes.fromhex(opened["plaintext"])
        found = chain(message[16], plain)
        inside = plain[:sum(payload["length"] for payload in found)]
        request = {"op": "ike_decrypt", "datagram": message.hex(), "iv": opened["iv"]}
        yield {**request, "encr": encr}, {"payloads": found, "plain": inside.hex(), "next_iv": message[-16:].hex()}
        yield {**request, "encr": {**encr, "key": encr["key"][:-2] + "00"}}, lambda answer: not answer["ok"]


def is_right(expected, answer):
    if callable(expected):
        return expected(answer)
    if isinstance(expected, str):
        return not answer["ok"] and answer["error"] == expected
    return answer["ok"] and all(answer.get(name) == value for name, value in expected.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    counts = collections.defaultdict(collections.Counter)
    for path in args.files:
        with open(path, encoding="utf-8") as file:
            transcripts = json.load(file)["transcripts"]
        for transcript in transcripts:
            wanted = list(cases(transcript))
            answers = runner.ask(args.binary or runner.default_binary(), [request for request, _ in wanted])
            for (request, expected), answer in zip(wanted, answers):
                right = is_right(expected, answer)
                counts[request["op"]]["right" if right else "wrong"] += 1
                if not right and counts[request["op"]]["wrong"] < 5:
                    print(f"{transcript['id']}: {json.dumps(request)[:200]} gives {json.dumps(answer)[:400]}, not {str(expected)[:400]}")
    for op, count in counts.items():
        print(f"{op:14} {count['right']:5} right {count['wrong']:5} wrong")
    return 1 if any(count["wrong"] for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
