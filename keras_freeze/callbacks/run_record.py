"""What has trained in a fit so far, kept while it runs. Pure: names and numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_freeze.schedules import RecordRow


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a fit that trains the same groups at the same rates, from its first batch on.

    Attributes:
        batch: Int, the batches of its epoch that were done when it began.
        phase: Int, the number of its phase.
        rates: Learning rate of each group that trains, from input to head; without a curve.
        trainable_params: Int, parameters that train.
        tick: Int, the optimizer's iteration count when it began.
    """

    batch: int
    phase: int
    rates: Mapping[str, float]
    trainable_params: int
    tick: int


@dataclasses.dataclass
class RunRecord:
    """The parts of a fit that are over, and the present one.

    Attributes:
        rows: What is over, but for the present epoch.
        epochs: Float, the epochs that are done.
        present: The present part; None between two parts.
    """

    rows: list[RecordRow] = dataclasses.field(default_factory=list)
    epochs: float = 0.0
    present: Part | None = None
    _endings: list[str] = dataclasses.field(default_factory=list)
    _of_epoch: list[tuple[int, RecordRow]] = dataclasses.field(default_factory=list)

    def end_phase(self, why: str) -> None:
        """Record what has ended a phase, "" for nothing that has to be said."""
        if why:
            self._endings.append(why)

    def end_part(self, batch: int, factors: Mapping[str, float]) -> None:
        """End the present part, if there is one.

        Args:
            batch: Int, the batches of the epoch that are done.
            factors: By group, the mean of the curve that its rate was multiplied by; 1 where
                missing.
        """
        part, self.present = self.present, None
        if part is None or part.batch == batch:
            return
        after = "; ".join(dict.fromkeys(self._endings))
        self._endings.clear()
        rates = {name: rate * factors.get(name, 1.0) for name, rate in part.rates.items()}
        row = RecordRow(part.batch, part.phase, after, rates, part.trainable_params)
        self._of_epoch.append((part.batch, row))

    def end_epoch(self, epoch: int, batches: int) -> None:
        """Say when the parts of an epoch (0-based) began, now that its length is known."""
        for batch, row in self._of_epoch:
            last = self.rows[-1] if self.rows else None
            trains = (row.rates, row.trainable_params)
            if row.after or last is None or trains != (last.rates, last.trainable_params):
                self.rows.append(dataclasses.replace(row, epochs=epoch + batch / batches))
        self._of_epoch.clear()
        self.epochs = float(epoch + 1)

    def to_plain(self) -> dict[str, Any]:
        """Return it at the end of an epoch as plain data."""
        return {"rows": [dict(vars(row)) for row in self.rows], "epochs": self.epochs}

    @classmethod
    def of_plain(cls, state: Mapping[str, Any]) -> RunRecord:
        """Return what `to_plain` returned as plain data."""
        rows = [RecordRow(**values) for values in state["rows"]]
        return cls(rows, state["epochs"])
