#!/usr/bin/env python3
"""Checks who depends on whom against the architecture (docs/architecture.md), from `cargo metadata`."""

import json
import subprocess
import sys

# Normal dependencies within the workspace. Dev-dependencies may also use what is listed under DEV.
ALLOWED = {
    "wire": set(),
    "ipsec": {"wire"},
    "af_xdp": set(),
    "stats": set(),
    "worker": {"wire", "ipsec", "af_xdp", "stats"},
    "keyexchange": set(),
    "ike": {"ipsec", "keyexchange"},
    "daemon": {"wire", "ipsec", "af_xdp", "stats", "worker", "ike", "keyexchange"},
    "benches": {"wire", "ipsec", "af_xdp", "stats", "worker"},
    "culvert": {"wire", "ipsec", "af_xdp", "stats", "worker", "ike", "keyexchange", "daemon", "benches"},
}
DRAWERS = {"common", "core", "util", "utils", "helpers", "shared", "types", "prelude"}


def main():
    done = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], capture_output=True, text=True, check=True
    )
    wrong = []
    packages = json.loads(done.stdout)["packages"]
    names = {package["name"] for package in packages}
    wrong += [f"package {name} is not in the table of tools/ci/edges.py" for name in names - ALLOWED.keys()]
    for package in packages:
        name = package["name"]
        if name in DRAWERS:
            wrong.append(f"package {name} is a drawer")
        for dependency in package["dependencies"]:
            other = dependency["name"]
            if other in names and dependency["kind"] is None and other not in ALLOWED.get(name, set()):
                wrong.append(f"{name} must not depend on {other}")
    files = subprocess.run(["git", "ls-files", "*.rs"], capture_output=True, text=True, check=True).stdout.split()
    for path in files:
        parts = path.removesuffix(".rs").split("/")
        wrong += [f"{path}: '{part}' is a drawer" for part in parts if part in DRAWERS]
    print("\n".join(wrong) if wrong else f"dependency edges: {len(names)} packages, as the architecture says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
