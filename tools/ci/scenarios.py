#!/usr/bin/env python3
"""Checks that every test that docs/scenarios.md names exists: a function of Rust or of tools/interop, or a program of tools/kat; and
every test of tools/interop that the tables of other pages name.

  scenarios.py [CATALOGUE.json ...]     with catalogues, that each of their scenarios is named in the page, too
"""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"aead"}


def main():
    page = (ROOT / "docs" / "scenarios.md").read_text()
    sources = [path for folder in ("dataplane", "controlplane", "tools") for path in (ROOT / folder).rglob("*")
               if path.suffix in (".rs", ".py") and "target" not in path.parts]
    functions = {path.stem for path in sources if path.parent.name == "tests"}
    for path in sources:
        functions.update(re.findall(r"^\s*(?:fn|def) ([a-z_0-9]+)", path.read_text(), re.MULTILINE))
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    wrong = []
    for row in rows:
        for name in re.findall(r"`([^`]+)`", row):
            if name.endswith(".py"):
                found = (ROOT / "tools" / "kat" / name).exists()
            else:
                found = name in functions or name in MODULES or name == "differential"
            if not found:
                wrong.append(f"no test {name}: {row[:60]}")
    runs = [sys.executable, ROOT / "tools" / "interop" / "run.py", "--list"]
    tests = subprocess.run(runs, capture_output=True, text=True, check=True).stdout.split()
    for name in ("ike-path.md", "statistics.md"):
        tables = [line for line in (ROOT / "docs" / name).read_text().splitlines() if line.startswith("|")]
        for test in re.findall(r"`((?:ikev1|strongswan|kerberos)_[a-z0-9_*]+)`", "\n".join(tables)):
            if not fnmatch.filter([*tests, *functions], test):
                wrong.append(f"{name}: no test {test}")
    for path in sys.argv[1:]:
        named = [row.split("|")[1] for row in rows]
        for scenario in json.loads(Path(path).read_text())["scenarios"]:
            parts = re.split(r" / |, ", scenario["id"]) if scenario["id"] not in page else [scenario["id"]]
            wrong += [f"{path}: {scenario['id']} is not in the page" for part in parts if not any(part in row for row in named)]
    print("\n".join(wrong) or f"scenarios: {len(rows)} rows, every test is there")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
