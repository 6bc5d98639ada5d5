"""The curves as a table, as JSON, and as one picture with a panel for each subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10

from benchmarks.growth.curves import Curve, grown


def table(curves: Sequence[Curve]) -> Iterator[str]:
    """A block of rows for each subject, whose sizes are its columns."""
    for subject, members in by_subject(curves).items():
        sizes = sorted({size for curve in members for size, _ in curve.points})
        yield f"| {subject} | {' | '.join(f'{size:,}' for size in sizes)} | exponent | most per decade |"
        yield f"|---|{'---|' * (len(sizes) + 2)}"
        for curve in members:
            costs = dict(curve.points)
            cells = [time(costs[size]) if size in costs else "" for size in sizes]
            growth = f"{curve.worst[0]:.2f}"
            if grown(curve, members) is not None:
                growth = f"**{growth}**"
            yield (
                f"| {curve.name}, each {curve.unit} | {' | '.join(cells)} "
                f"| {curve.exponent:+.2f} | {growth} |"
            )
        yield ""


def time(seconds: float) -> str:
    """Three digits, in the unit that reads best."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        value = seconds * factor
        if value < 1000 or unit == "s":
            return f"{value:.3g} {unit}"
    raise AssertionError  # the last unit takes everything


def by_subject(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of each subject, in their order."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.subject, []).append(curve)
    return found


# -- the picture ----------------------------------------------------------------------------------

_COLOURS = (
    *("#0b7a75", "#d17b0f", "#5b5f97", "#7b2d26", "#3a86c8", "#c08497", "#6a994e", "#b5179e"),
    "#3a3a3a",
)
_RAW = "#8d99ae"
_WIDTH, _HEIGHT, _LEFT, _TOP, _LINE = 310, 190, 62, 30, 14
_COLUMNS = 2


def chart(curves: Sequence[Curve], title: str) -> str:
    """Both axes logarithmic: a flat line is linear growth of the whole."""
    panels = list(by_subject(curves).items())
    width, top = _LEFT + _WIDTH + 30, 34
    parts: list[str] = []
    for start in range(0, len(panels), _COLUMNS):
        row = panels[start : start + _COLUMNS]
        parts += [_panel(*panel, n * width, top) for n, panel in enumerate(row)]
        top += _TOP + _HEIGHT + 50 + max(len(members) for _, members in row) * _LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * _COLUMNS}" '
        f'height="{top}" font-family="sans-serif" font-size="10">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="22" font-size="14">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def _panel(subject: str, curves: Sequence[Curve], left: int, top: int) -> str:
    sizes = [log10(size) for curve in curves for size, _ in curve.points]
    costs = [log10(cost) for curve in curves for _, cost in curve.points if cost > 0]
    if not costs:
        return ""
    low_x, high_x = min(sizes), max(max(sizes), min(sizes) + 1)
    low_y, high_y = floor(min(costs)), ceil(max(costs))
    high_y = max(high_y, low_y + 1)

    def x(size: float) -> float:
        return left + _LEFT + (log10(size) - low_x) / (high_x - low_x) * _WIDTH

    def y(cost: float) -> float:
        return top + _TOP + (high_y - log10(cost)) / (high_y - low_y) * _HEIGHT

    parts = [f'<text x="{left + _LEFT}" y="{top + 18}" font-size="12">{escape(subject)}</text>']
    for power in range(low_y, high_y + 1):
        at = y(10.0**power)
        parts.append(
            f'<line x1="{left + _LEFT}" y1="{at:.1f}" x2="{left + _LEFT + _WIDTH}" y2="{at:.1f}" '
            f'stroke="#ddd"/><text x="{left + _LEFT - 6}" y="{at + 3:.1f}" text-anchor="end">'
            f"{time(10.0**power)}</text>"
        )
    for power in range(ceil(low_x), floor(high_x) + 1):
        parts.append(
            f'<text x="{x(10.0**power):.1f}" y="{top + _TOP + _HEIGHT + 14}" '
            f'text-anchor="middle">{10**power:,}</text>'
        )
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)] if curve.ours else _RAW
        points = [(x(size), y(cost)) for size, cost in curve.points if cost > 0]
        parts.append(
            f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" fill="none" '
            f'stroke="{colour}" stroke-width="1.5"/>'
        )
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>' for a, b in points]
        at = top + _TOP + _HEIGHT + 32 + number * _LINE
        parts.append(
            f'<rect x="{left + _LEFT}" y="{at - 8}" width="9" height="9" fill="{colour}"/>'
            f'<text x="{left + _LEFT + 14}" y="{at}">'
            f"{escape(f'{curve.name}, each {curve.unit}')}</text>"
        )
    return "".join(parts)
