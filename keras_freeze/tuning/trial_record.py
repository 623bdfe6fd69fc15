"""What a trial did, in a file beside KerasTuner's own: counts, phases, curves, times, failures."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_freeze.backup import archive
from keras_freeze.tuning.search_folder import read_json

FILE = "keras_freeze.json"
# What becomes of a trial, in KerasTuner's words.
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
#: A trial that a pruner of Optuna has ended.
PRUNED = "PRUNED"


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """What trained from some epoch on.

    Attributes:
        epoch: Int, 0-based.
        frozen_groups: Names of the layer groups that were entirely frozen.
        trainable_params: Int.
        non_trainable_params: Int.
        trainable_bytes: Int.
        non_trainable_bytes: Int.
    """

    epoch: int
    frozen_groups: tuple[str, ...]
    trainable_params: int
    non_trainable_params: int
    trainable_bytes: int
    non_trainable_bytes: int


@dataclasses.dataclass
class Execution:
    """One training of a trial.

    Attributes:
        initial_epoch: Int, 0-based.
        parts: What trained, from the beginning and from each transition.
        history: Values by metric, one for each epoch; lists where a metric has several values.
        epoch_s: Seconds of each epoch, validation included.
        is_traced: Bool for each epoch, whether a step was traced in it: the first, and those
            that begin with a transition.
        best_epoch: Int, 0-based, by the objective; None before there is one.
        score: Float, the objective there; None before there is one.
    """

    initial_epoch: int = 0
    parts: list[TrainedPart] = dataclasses.field(default_factory=list)
    history: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    epoch_s: list[float] = dataclasses.field(default_factory=list)
    is_traced: list[bool] = dataclasses.field(default_factory=list)
    best_epoch: int | None = None
    score: float | None = None

    @property
    def end(self) -> int:
        """The epoch (0-based) that would be next."""
        return self.initial_epoch + len(self.epoch_s)

    @property
    def scored_part(self) -> TrainedPart | None:
        """What trained in the best epoch; in the last, if there is no best."""
        at = math.inf if self.best_epoch is None else self.best_epoch
        reached = [part for part in self.parts if part.epoch <= at]
        return reached[-1] if reached else None


@dataclasses.dataclass
class TrialRecord:
    """What became of a trial.

    Attributes:
        trial_id: String.
        values: Hyperparameters by name.
        freeze_depth: What `freeze_depth` returned; None if it was not called.
        executions: Those of the last attempt.
        failures: Messages of the attempts that failed.
        killed: Int, earlier attempts that neither failed nor finished.
        is_running: Bool, whether the current attempt has neither failed nor finished.
        elapsed_s: Float, seconds of the last attempt as a whole.
        returned_score: Float, what a `run_trial` of the user's own came to; None where it is ours.
    """

    trial_id: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    freeze_depth: int | float | None = None
    executions: list[Execution] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    killed: int = 0
    is_running: bool = False
    elapsed_s: float = 0.0
    returned_score: float | None = None

    @property
    def scores(self) -> list[float]:
        """The objective of each execution that has one, or what the user's `run_trial` returned."""
        if self.returned_score is not None:
            return [self.returned_score]
        return [e.score for e in self.executions if e.score is not None]

    @property
    def score(self) -> float | None:
        """The mean of the executions' scores."""
        return statistics.mean(self.scores) if self.scores else None

    @property
    def score_std(self) -> float | None:
        """The standard deviation of the executions' scores; None for a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def seconds(self) -> float:
        """Float, of all epochs of all executions; of the attempt, where epochs are not known."""
        seconds = [second for execution in self.executions for second in execution.epoch_s]
        return sum(seconds) if seconds else self.elapsed_s

    def save(self, folder: Path) -> None:
        """Write the record, whole or not at all."""
        with archive.replacing(folder / FILE) as file:
            Path(file).write_text(json.dumps(dataclasses.asdict(self)))


def read(folder: Path) -> TrialRecord | None:
    """Return the record of a trial's folder; None if it has none.

    Raises:
        ValueError: if it can't be read.
    """
    file = folder / FILE
    if not file.exists():
        return None
    plain = read_json(file, "Delete it: the search continues without what it says of that trial.")
    executions = []
    for one in plain.pop("executions"):
        parts = [
            TrainedPart(**{**part, "frozen_groups": tuple(part["frozen_groups"])})
            for part in one.pop("parts")
        ]
        executions.append(Execution(parts=parts, **one))
    return TrialRecord(executions=executions, **plain)


def read_all(project: Path) -> Iterator[TrialRecord]:
    """Yield the records of a search's folder, by the trials' ids."""
    for folder in sorted(project.glob("trial_*")):
        record = read(folder)
        if record is not None:
            yield record
