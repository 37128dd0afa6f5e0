"""`culvert kat` as a process: requests in, answers out, in order."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def default_binary():
    for profile in ("release", "debug"):
        path = ROOT / "target" / profile / "culvert"
        if path.exists():
            return path
    raise SystemExit("no culvert binary: build one, or name it with --binary")


def ask(binary, requests):
    """All answers. Every line is an answer, and the run ends with status 0, whatever was asked."""
    lines = "".join(json.dumps({**request, "id": number}) + "\n" for number, request in enumerate(requests))
    done = subprocess.run([str(binary), "kat"], input=lines, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or [answer["id"] for answer in answers] != list(range(len(requests))):
        raise SystemExit(f"culvert kat: {done.returncode}, {len(answers)} of {len(requests)} answers: {done.stderr[-500:]}")
    return answers
