"""A live view as HTML with SVG: no scripts, no files, and readable on light and dark pages.

Text has the colour of the page around it. The two colours of curves have a contrast of at least 3
to white and to the dark pages of Jupyter, VS Code and Colab; what they say is also said by shape
(squares full and empty, lines solid and dashed).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from keras_freeze.live import words
from keras_freeze.live.status import Curve, GroupState, GroupStatus, Status
from keras_freeze.reports import shortened

#: Okabe and Ito's blue and vermilion, as in `keras_freeze.plots`.
TRAINING, VALIDATION = "#0072B2", "#D55E00"

# So many characters of a name are shown; the whole is its tooltip.
_MAX_NAME = 22
# So many lines of the log are shown; older ones can be opened.
_MAX_LOG = 6
# Of a curve, so many values are drawn.
_MAX_POINTS = 200
# With more values, they have no dots.
_MAX_DOTS = 30
_WIDTH, _HEIGHT = 350, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 20, 18

_FAINT = "opacity:0.7"


def as_html(status: Status) -> str:
    """Return a status as the HTML of one `div`."""
    left = " · ".join(words.time_left(status))
    parts = [
        _line(f"<b>{_text(status.model)}</b> · {_text(words.headline(status))}"),
        _timeline(status),
        _line(_text(" · ".join(text for text in (words.phase(status), left) if text))),
        _groups(status.groups),
        _curves(status),
        _line(f"cache: {_text(status.cache)}", _FAINT) if status.cache else "",
        _log(status.log),
    ]
    style = "font-size:13px;line-height:1.5;max-width:740px;margin:4px 0"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _text(text: str) -> str:
    return html.escape(text)


def _line(content: str, style: str = "") -> str:
    if not content:
        return ""
    return f'<div style="{style}">{content}</div>' if style else f"<div>{content}</div>"


def _timeline(status: Status) -> str:
    """Return how far the fit has come, as a bar with a mark at each transition."""
    span = max(1, status.epochs - status.first)
    within = status.now.step / status.steps if status.steps else 0.0
    done = min(1.0, max(0.0, (status.now.epoch + within - status.first) / span))
    bar = [
        '<rect x="0" y="2" width="720" height="6" rx="3" fill="currentColor" opacity="0.2"/>',
        f'<rect x="0" y="2" width="{720 * done:.1f}" height="6" rx="3" fill="{TRAINING}"/>',
    ]
    for epoch in status.transitions:
        x = 720 * (epoch - status.first) / span
        bar.append(f'<rect x="{x - 1:.1f}" y="0" width="2" height="10" fill="currentColor"/>')
    label = f"{100 * done:.0f} % of the epochs are done"
    return _svg("".join(bar), 720, 10, label, "display:block;width:100%;margin:4px 0")


def _svg(content: str, width: int, height: int, label: str, style: str) -> str:
    ratio = ' preserveAspectRatio="none"' if height < _BOTTOM else ""
    return (
        f'<svg role="img" aria-label="{_text(label)}" viewBox="0 0 {width} {height}"{ratio} '
        f'height="{height}" style="{style}" xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )


def _groups(groups: Sequence[GroupStatus]) -> str:
    """Return a cell for each group, from head to input."""
    names = shortened([group.label for group in groups], _MAX_NAME)
    cells = []
    for group in reversed(groups):
        title = f"{group.label}: {group.params:,} parameters, {group.state.value}"
        is_frozen = group.state is GroupState.FROZEN
        colour = "" if is_frozen else f' style="color:{TRAINING}"'
        right = words.rate(group) or group.state.value
        cells.append(
            f'<div title="{_text(title)}" style="display:flex;{_FAINT if is_frozen else ""}">'
            f"<span{colour}>{words.SIGNS[group.state]}</span>&nbsp;"
            f'<span style="white-space:nowrap">{_text(names[group.label])}</span>'
            f'<span style="margin-left:auto;padding-left:8px;white-space:nowrap">{_text(right)}'
            "</span></div>"
        )
    style = (
        "display:grid;grid-template-columns:repeat(auto-fill,minmax(226px,1fr));column-gap:24px;"
        "margin:4px 0"
    )
    return f'<div style="{style}">{"".join(cells)}</div>' if cells else ""


def _curves(status: Status) -> str:
    drawn = [_curve(curve, status.transitions) for curve in status.curves]
    style = "display:flex;flex-wrap:wrap;gap:12px;margin:6px 0"
    return f'<div style="{style}">{"".join(drawn)}</div>' if drawn else ""


def _curve(curve: Curve, transitions: Sequence[float]) -> str:
    """Return the picture of a metric by epoch: a value is drawn at the end of its epoch."""
    finite = [v for v in (*curve.training, *curve.validation) if math.isfinite(v)]
    first, last = curve.epochs[0], max(curve.epochs[-1] + 1, curve.epochs[0] + 2)
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)

    def x_of(epoch: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch - first) / (last - first)

    def y_of(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    small = 'font-size="11" fill="currentColor"'
    parts = []
    for value in (high, (low + high) / 2, low):
        y = y_of(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="currentColor" opacity="0.2"/>'
            f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end" {small}>{value:.3g}</text>'
        )
    for epoch in (first, last):
        anchor = "start" if epoch == first else "end"
        text = f"epoch {epoch}" if epoch == last else f"{epoch}"
        parts.append(
            f'<text x="{x_of(epoch):.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}" {small}>'
            f"{text}</text>"
        )
    for begun in transitions:
        if first < begun < last:
            x = x_of(begun)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
                'stroke="currentColor" stroke-dasharray="1 3" opacity="0.8"/>'
            )
    left = float(_LEFT)
    for name, values, colour, dashes in (
        ("training", curve.training, TRAINING, ""),
        ("validation", curve.validation, VALIDATION, ' stroke-dasharray="5 3"'),
    ):
        if name == "validation" and not curve.has_validation:
            continue
        drawn = _thinned(curve.epochs, values)
        for run in _unbroken(drawn):
            points = [(x_of(epoch + 1), y_of(value)) for epoch, value in run]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" '
                f'stroke-width="1.8"{dashes}/>'
            )
            if len(drawn) <= _MAX_DOTS or len(points) == 1:
                dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in points]
                parts.append(f'<g fill="{colour}">{"".join(dots)}</g>')
        label = f"{name} {values[-1]:.4g}"
        parts.append(
            f'<line x1="{left}" x2="{left + 18}" y1="8" y2="8" stroke="{colour}" '
            f'stroke-width="1.8"{dashes}/><text x="{left + 22}" y="12" {small}>{label}</text>'
        )
        left += 34 + 6.2 * len(label)
    title = f'<b style="font-size:12px">{_text(curve.name)}</b>'
    label = f"{curve.name} by epoch"
    return (
        f"<div>{title}<br>{_svg(''.join(parts), _WIDTH, _HEIGHT, label, f'width:{_WIDTH}px')}</div>"
    )


def _thinned(epochs: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    return list(
        zip(words.thinned(epochs, _MAX_POINTS), words.thinned(values, _MAX_POINTS), strict=True)
    )


def _unbroken(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Yield the parts of a curve between values that are not finite."""
    run: list[tuple[float, float]] = []
    for epoch, value in points:
        if math.isfinite(value):
            run.append((epoch, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _log(lines: Sequence[str]) -> str:
    """Return what was said; older lines can be opened."""
    older, shown = lines[:-_MAX_LOG], lines[-_MAX_LOG:]
    parts = []
    if older:
        summary = "<summary>earlier lines</summary>"
        parts.append(f"<details>{summary}{''.join(_line(_text(line)) for line in older)}</details>")
    parts += [_line(_text(line)) for line in shown]
    return f'<div style="font-size:12px;{_FAINT}">{"".join(parts)}</div>' if parts else ""
