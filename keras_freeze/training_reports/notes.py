"""What a report of a training needs to know, kept while it runs and in backups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_freeze.model_picture import ModelPicture
from keras_freeze.training_reports.samples import WeightSamples


class TrainingNotes:
    """The losses of each epoch, and a sample of the weights at the beginning.

    Args:
        samples: `WeightSamples`.
        losses: By epoch (0-based), `loss` and `val_loss`, and `freeze_depth` where it is logged.
            Defaults to none yet.
    """

    def __init__(
        self, samples: WeightSamples, losses: Mapping[int, dict[str, float]] | None = None
    ) -> None:
        self.samples = samples
        self._losses = dict(losses or {})

    def add(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Note the losses of an epoch, and its freeze depth where a schedule finds it."""
        names = ("loss", "val_loss", "freeze_depth")
        self._losses[epoch] = {name: float(logs[name]) for name in names if name in logs}

    @property
    def logs(self) -> list[dict[str, float]]:
        """The losses of each epoch from the first on, empty for those that aren't known."""
        return [self._losses.get(epoch, {}) for epoch in range(max(self._losses, default=-1) + 1)]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data and arrays."""
        return {
            "losses": [[epoch, dict(own)] for epoch, own in self._losses.items()],
            "samples": {name: list(own) for name, own in self.samples.values.items()},
        }

    @classmethod
    def of_plain(cls, state: Mapping[str, Any] | None, picture: ModelPicture) -> TrainingNotes:
        """Return what `to_plain` returned; of a backup that has none, begin with the present."""
        if state is None:
            return cls(WeightSamples.of(picture))
        samples = {name: [np.asarray(a) for a in own] for name, own in state["samples"].items()}
        return cls(WeightSamples(samples), {epoch: own for epoch, own in state["losses"]})
