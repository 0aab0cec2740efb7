"""Draws one workload as SVG: a row for each server, a dot for each number of connections, on a logarithmic scale.

Plain text, written by hand: no drawing library. Ratios are what matters, and equal ratios are equal distances here.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from harness.report import Results

_UNITS = {
    "cpu_us": {"requests": "CPU microseconds per request", "stream": "CPU microseconds per event"},
    "rps": {"requests": "requests per second"},
    "ready_ms": {"cold": "milliseconds to the first 200"},
}
_COLOURS = ("#7fb3d5", "#2471a3", "#1b2631")
_LEFT, _RIGHT, _TOP, _ROW, _WIDTH = 270, 30, 64, 30, 900


def draw(results: Results) -> str:
    """The picture. Rows are named by the server's title, dots labelled with value and ratio to the baseline."""
    workload = results.workload
    servers, concs = results.servers(), results.concs()
    points = {
        (server, conc): value
        for server in servers
        for conc in concs
        if (value := results.value(server, conc, workload.figure)) is not None
    }
    scale = _Scale(min(points.values()), max(points.values()))
    bottom = _TOP + _ROW * len(servers)
    parts = [_text(16, 24, workload.title, size=15, weight="bold")]
    labels = f"; labels: at {concs[-1]} connections" if concs[-1] > 1 else ""
    parts += [_text(16, 44, f"{_UNITS[workload.figure][workload.kind]}, logarithmic{labels}", fill="#566573")]
    parts += _legend(concs) if len(concs) > 1 else []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#e5e8e8"/>')
        parts.append(_text(x, bottom + 16, f"{tick:,g}", anchor="middle", fill="#566573"))
    for index, server in enumerate(servers):
        parts += _row(results, server, points, scale, _TOP + _ROW * index + _ROW / 2)
    return _svg(bottom + 30, parts)


class _Scale:
    """Values to x."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low / 1.6, high * 1.9  # room for a tick before, and for the last label

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        return [tick for tick in steps if self.low <= tick <= self.high]


def _row(results: Results, server: str, points: dict[tuple[str, int], float], scale: _Scale, y: float) -> list[str]:
    title = results.title(server).replace("*", "").replace("`", "")
    bold = "bold" if "**" in results.title(server) else "normal"
    parts = [_text(_LEFT - 14, y + 4, title, anchor="end", weight=bold)]
    concs = []
    for index, conc in enumerate(results.concs()):
        if (server, conc) in points:
            x = scale(points[server, conc])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[index % 3]}"/>')
            concs.append(conc)
    if concs:
        last = concs[-1]
        right = max(scale(points[server, conc]) for conc in concs)
        ratio = results.ratio(server, last, results.workload.figure)
        label = f"{points[server, last]:,.3g}" if points[server, last] < 1000 else f"{points[server, last]:,.0f}"
        label += f"  ({ratio:.2f}x)" if ratio is not None and server != results.workload.baseline else ""
        parts.append(_text(right + 10, y + 4, label))
    return parts


def _legend(concs: list[int]) -> list[str]:
    parts = []
    for index, conc in enumerate(concs):
        x = _WIDTH - 125 * (len(concs) - index)
        parts.append(f'<circle cx="{x}" cy="40" r="5" fill="{_COLOURS[index % 3]}"/>')
        parts.append(_text(x + 10, 44, f"{conc} connection{'s' if conc != 1 else ''}", fill="#566573"))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = "#1b2631",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _svg(height: float, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="system-ui, sans-serif">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>\n"])
