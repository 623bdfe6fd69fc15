"""What a schedule did in a fit: which groups trained when, and at which rates, as a table. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_freeze.checks import counted, first_few
from keras_freeze.reports import Column, ShownAsTable, Table


@dataclasses.dataclass(frozen=True)
class RecordRow:
    """A part of a fit in which the same groups trained at the same rates.

    Attributes:
        epochs: Float, the epochs of the training that were done when it began.
        phase: Int, the number of its phase from 0; -1 before the first.
        after: Str, what ended the phase before; "" where none ended.
        rates: Learning rate of each group that trained, from input to head.
        trainable_params: Int, parameters that trained.
    """

    epochs: float
    phase: int
    after: str
    rates: Mapping[str, float]
    trainable_params: int


@dataclasses.dataclass(frozen=True, repr=False)
class ScheduleRecord(ShownAsTable):
    """What a schedule did in a fit; printed as text, with rich, or as HTML in a notebook.

    A new row begins with each phase that changes something, and with each epoch whose rates differ
    from those of the epoch before. A rate is that of the first step; where a curve changes it in an
    epoch, its mean.

    Attributes:
        model: Str, the model's name.
        groups: Tuple of str, the layer groups of the model, from input to head.
        rows: Tuple of `RecordRow`, in order.
        epochs: Float, the epochs of the training that are done.
        are_multiples: Bool, whether rates are multiples of the compiled one, since the model has no
            single learning rate.
    """

    model: str
    groups: tuple[str, ...]
    rows: tuple[RecordRow, ...]
    epochs: float
    are_multiples: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return (
            f"ScheduleRecord(model={self.model!r}, epochs={self.epochs:g}, rows={len(self.rows)})"
        )

    def _table(self) -> Table:
        columns = (
            Column("epochs done", align="right"),
            Column("phase", align="right"),
            Column("after", fit="wrap"),
            Column("trains", fit="wrap"),
            Column("trainable", align="right"),
            Column("multiple of the rate" if self.are_multiples else "learning rate", fit="wrap"),
        )
        rows = []
        for row in self.rows:
            training = list(row.rates)[::-1]
            shown = dict.fromkeys(f"{row.rates[name]:.3g}" for name in training)
            rates = " to ".join([*shown][:1] + [*shown][1:][-1:])
            trains = "all groups" if len(training) == len(self.groups) else first_few(training)
            count = f"{row.trainable_params:,}"
            rows.append((f"{row.epochs:.4g}", str(row.phase), row.after, trains, count, rates))
        title = f"{self.model}, {self.epochs:g} epochs done"
        if self.epochs == 1:
            title = f"{self.model}, {counted(1, 'epoch')} done"
        return Table(title, columns, tuple(rows))
