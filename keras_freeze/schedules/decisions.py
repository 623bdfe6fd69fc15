"""What an adaptive schedule decided in a fit, and by what, as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_freeze.reports import Column, ShownAsTable, Table


@dataclasses.dataclass(frozen=True)
class DecisionRow:
    """One decision.

    Attributes:
        epochs: Float, the epochs that were done when it was made.
        what: Str, what was decided.
        value: Float, by which value.
        threshold: Float, against which; None for none.
        metric: Str, what value and threshold are of.
    """

    epochs: float
    what: str
    value: float
    threshold: float | None
    metric: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value that decisions rest on.

    Attributes:
        epochs: Float, the epochs that were done when it was measured.
        label: Str, of what: a freeze depth, or a layer group.
        value: Float.
    """

    epochs: float
    label: str
    value: float


@dataclasses.dataclass(frozen=True, repr=False)
class Decisions(ShownAsTable):
    """What an adaptive schedule decided; printed as text, with rich, or as HTML in a notebook.

    Attributes:
        criterion: Str, what was measured, such as `"val_loss"`.
        rows: Tuple of `DecisionRow`, in order.
        measured: Tuple of `Measured`, in order.
        verdict: Str, what was found.
        freeze_depth: Int, how many groups from the input are frozen in the end, or so far.
    """

    criterion: str
    rows: tuple[DecisionRow, ...]
    measured: tuple[Measured, ...]
    verdict: str
    freeze_depth: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return f"Decisions(criterion={self.criterion!r}, rows={len(self.rows)}, {self.verdict!r})"

    def _table(self) -> Table:
        columns = (
            Column("epochs done", align="right"),
            Column("decision", fit="wrap"),
            Column("by", fit="wrap"),
            Column("value", align="right"),
            Column("against", align="right"),
        )
        rows = []
        for row in self.rows:
            against = "" if row.threshold is None else f"{row.threshold:.4g}"
            rows.append((f"{row.epochs:.3g}", row.what, row.metric, f"{row.value:.4g}", against))
        return Table(self.verdict, columns, tuple(rows))
