"""The states of a model that a trial keeps: of its best epoch, and of the end of each training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras

from keras_freeze.backup import archive
from keras_freeze.engine import snapshot

BEST = "best.npz"
END = "end_{}.npz"  # of each execution


@dataclasses.dataclass
class KeptModels:
    """What a trial keeps of its models, as long as it runs.

    Attributes:
        score: Float, the objective at best; None before there is one.
        best: What `snapshot.capture_all` returned in the best epoch of all executions.
        ends: The same at the end of each execution, where another trial may resume.
    """

    score: float | None = None
    best: snapshot.State | None = None
    ends: list[snapshot.State | None] = dataclasses.field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write what is kept into the folder of the trial, in place of an earlier attempt's."""
        states = {BEST: self.best}
        for execution, end in enumerate(self.ends):
            states[END.format(execution)] = end
        for name, state in states.items():
            (folder / name).unlink(missing_ok=True)
            if state is not None:
                with archive.replacing(folder / name) as unfinished, open(unfinished, "wb") as file:
                    archive.write(file, state)


def restore(model: keras.Model, folder: Path, name: str) -> None:
    """Give a model of the same structure the state that a trial has kept under a name.

    Raises:
        ValueError: if none was kept, or it can't be read.
    """
    kept = folder / name
    trial_id = folder.name.removeprefix("trial_")
    if not kept.exists():
        raise ValueError(
            f"Trial {trial_id!r} must have kept its model. Received: no {name} in its folder. "
            "HyperModel.fit must pass the callbacks that it gets on to fit, and the model must "
            "be compiled. A run_trial of your own keeps none: train a model again, from "
            "`tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])`."
        )
    try:
        with kept.open("rb") as file:
            state = archive.read(file)
    except ValueError as error:
        raise ValueError(
            f"The model of trial {trial_id!r} can't be read from {kept}: {error}. Restore that "
            "file from a copy; take another's, with `tuner.load_model(trial)` for one of "
            "`tuner.oracle.get_best_trials(n)`; or train this one again, from "
            "`tuner.hypermodel.build(trial.hyperparameters)`."
        ) from error
    snapshot.restore_all(model, state, None)
