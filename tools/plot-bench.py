#!/usr/bin/env python3
"""Draws what `culvert bench --json` measured: SVG files in docs/img, written by hand, with nothing but Python.

    culvert bench --sizes 64 --bursts 1,2,4,8,16,32 --json > bursts.json
    culvert bench --sizes 64,1420 --sas 1,10,100,1000,10000,100000,1000000 --json > sas.json
    tools/plot-bench.py docs/img bursts.json sas.json

Whichever parameter has more than one value is the axis. Times are without the device (`net`), as the figures of VPP are
without its generator.
"""

import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

# VPP 26.06, AES-128-GCM tunnel, 64 bytes, outbound, its ESP node alone; and its whole graph at the default burst, by
# size and direction: measured on this kind of machine, not in the same run.
VPP_NODE = {1: 237, 4: 97, 16: 62, 64: 51, 256: 50}
VPP_GRAPH = {("out", 64): 77, ("out", 512): 121, ("out", 1420): 182, ("in", 64): 95, ("in", 512): 132, ("in", 1420): 198}

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 40, 50
COLOURS = ["#1b6ca8", "#c1440e", "#2e8b57", "#7b4fa0", "#8a6d00", "#444444"]


class Chart:
    """A chart of lines over a logarithmic axis of counts."""

    def __init__(self, title, across, xs, top):
        self.xs = xs
        self.top = top
        self.parts = []
        self.labels = 0
        self.text(WIDTH / 2 - RIGHT / 3, 20, title, anchor="middle", size=15)
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, anchor="middle")
        self.text(LEFT, TOP - 6, "ns per packet", anchor="middle")
        step = 10 ** math.floor(math.log10(top / 2))
        step *= next(m for m in (1, 2, 5) if top / (step * m) <= 10)
        for n in range(int(top / step) + 1):
            y = self.y(n * step)
            self.line(LEFT, y, WIDTH - RIGHT, y, "#dddddd")
            self.text(LEFT - 6, y + 4, f"{n * step:g}", anchor="end")
        for x in xs:
            self.line(self.x(x), self.y(0), self.x(x), self.y(0) + 4, "#888888")
            self.text(self.x(x), self.y(0) + 18, f"{x:,}", anchor="middle")

    def x(self, value):
        low, high = math.log(self.xs[0]), math.log(self.xs[-1])
        return LEFT + (math.log(value) - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)

    def line(self, x1, y1, x2, y2, colour):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>')

    def text(self, x, y, words, anchor="start", size=12, colour="#222222"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(words)}</text>'
        )

    def series(self, name, points, dashed=False):
        """Points of (x, y, least, greatest)."""
        colour = COLOURS[self.labels % len(COLOURS)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y, _, _ in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for x, y, least, greatest in points:
            self.parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{colour}"/>')
            if greatest > least:
                self.line(self.x(x), self.y(max(0, least)), self.x(x), self.y(min(self.top, greatest)), colour)
        at = TOP + 14 + 20 * self.labels
        self.parts.append(
            f'<line x1="{WIDTH - RIGHT + 12}" y1="{at - 4}" x2="{WIDTH - RIGHT + 36}" y2="{at - 4}" '
            f'stroke="{colour}" stroke-width="2"{dash}/>'
        )
        self.text(WIDTH - RIGHT + 42, at, name)
        self.labels += 1

    def write(self, path):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        )
        path.write_text("\n".join([head, *self.parts, "</svg>", ""]))
        print(path)


def draw(report, folder):
    points = [p for p in report["points"] if p["path"]]
    if not points:
        sys.exit("no point has a path")
    axis = max(("burst", "sas"), key=lambda name: len({p[name] for p in points}))
    xs = sorted({p[axis] for p in points})
    lines = {}
    for p in points:
        path = p["path"]
        off = path["device"]["median"]
        # Of many samples what a quiet machine takes: on a shared one a median says more of the neighbours.
        y = (path.get("quiet") or path)["net"]
        net = (p[axis], y, path["gateway"]["min"] - off, path["gateway"]["max"] - off)
        lines.setdefault((p["direction"], p["size"]), []).append(net)
    # A spread may reach out of the chart; a point may not.
    top = max(y for line in lines.values() for _, y, _, _ in line)
    suite = report["plan"]["suite"]
    if axis == "burst":
        vpp = [(x, y, y, y) for x, y in VPP_NODE.items() if suite == "aes128gcm16"]
        xs = sorted({*xs, *(x for x, *_ in vpp)})
        top = max([top, *(y for _, y, _, _ in vpp)])
        chart = Chart(f"Packets a burst, {suite}", "packets a burst", xs, 1.1 * top)
    else:
        vpp = []
        top = max([top, *(VPP_GRAPH.get(key, 0) for key in lines)])
        order = report["plan"]["order"]
        chart = Chart(f"Number of SAs, {suite}, {order} order", "SAs of one worker", xs, 1.1 * top)
    for (direction, size), line in lines.items():
        chart.series(f"Culvert {direction} {size} B", sorted(line))
    if vpp:
        chart.series("VPP, ESP node, out 64 B", vpp, dashed=True)
    elif axis == "sas" and suite == "aes128gcm16":
        for key in lines:
            if key in VPP_GRAPH:
                y = VPP_GRAPH[key]
                chart.series(f"VPP {key[0]} {key[1]} B, one SA", [(xs[0], y, y, y), (xs[-1], y, y, y)], dashed=True)
    name = {"burst": "bench-bursts.svg", "sas": "bench-sas.svg"}[axis]
    chart.write(folder / name)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        draw(json.loads(pathlib.Path(name).read_text()), folder)


if __name__ == "__main__":
    main()
