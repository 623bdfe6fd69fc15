"""A live view as a panel of rich, for terminals."""

from __future__ import annotations

import rich.console
import rich.text
from rich.table import Table

from keras_freeze.live import words
from keras_freeze.live.status import GroupState, Status
from keras_freeze.reports import shortened

_STYLES = {GroupState.TRAINS: "bold", GroupState.IN_PART: "bold", GroupState.FROZEN: "dim"}
# Characters: of borders and padding, between columns, of a metric's value.
_FRAME, _GAP, _NUMBER = 4, 2, 10
# The least width that has room for numbers of parameters.
_WIDE = 70
_MIN_NAME, _MAX_METRIC, _MAX_LINE = 6, 24, 40


def as_panel(status: Status, width: int = 80) -> rich.console.RenderableType:
    """Return a status as a panel of so many characters."""
    from rich.panel import Panel

    parts: list[rich.console.RenderableType] = [rich.text.Text(words.headline(status))]
    present = words.phase(status)
    if present:
        parts.append(rich.text.Text(present))
    left = words.time_left(status)
    if left:
        parts.append(rich.text.Text(", ".join(left)))
    if status.groups:
        parts.append(_groups(status, width))
    curves = _curves(status, width)
    if curves is not None:
        parts.append(curves)
    if status.cache:
        parts.append(rich.text.Text(f"cache: {status.cache}", style="dim"))
    return Panel(
        rich.console.Group(*parts),
        title=rich.text.Text(status.model),
        title_align="left",
        width=width,
    )


def _groups(status: Status, width: int) -> Table:
    shown = words.rows(status.groups)
    rates = [row.rate or row.state.value for row in shown]
    counts = [f"{row.params:,} parameters" if width >= _WIDE else "" for row in shown]
    room = width - _FRAME - 2 - sum(max(map(len, cells)) + _GAP for cells in (rates, counts))
    names = shortened([row.label for row in shown], max(_MIN_NAME, room))
    table = _table()
    for row, rate, count in zip(shown, rates, counts, strict=True):
        cells = f"{words.SIGNS[row.state]} {names[row.label]}", rate, count
        table.add_row(*(rich.text.Text(cell, style=_STYLES[row.state]) for cell in cells))
    return table


def _curves(status: Status, width: int) -> Table | None:
    lines = []
    for curve in status.curves:
        for name, values in ((curve.name, curve.training), (f"val_{curve.name}", curve.validation)):
            if name == curve.name or curve.has_validation:
                lines.append((name, values, f"{values[-1]:.4g}"))
    names = shortened([name for name, _, _ in lines], _MAX_METRIC)
    room = width - _FRAME - 2 * _GAP - _NUMBER - max(map(len, names.values()), default=0)
    table = _table()
    for name, values, last in lines:
        line = words.sparkline(values, max(2, min(_MAX_LINE, room)))
        table.add_row(*map(rich.text.Text, (names[name], line, last)))
    return table if lines else None


def _table() -> Table:
    """Return a table of three columns, the last two with what belongs to a name."""
    table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    return table
