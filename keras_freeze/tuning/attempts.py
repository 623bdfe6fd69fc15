"""One attempt at a trial: its record from beginning to end, however it ends, and its score."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from keras_freeze.keras_internals.keras_tuner import metrics_of
from keras_freeze.tuning import trial_record
from keras_freeze.tuning.trial_record import TrialRecord

# How often the process may be killed in a trial before the trial is considered the cause.
MAX_KILLED = 3
# The out-of-memory messages of TensorFlow, torch, JAX and NumPy.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "unable to allocate",
    "resource_exhausted",
    "resourceexhausted",
    "oom when",
)


@contextlib.contextmanager
def attempt(trial: Any, folder: Path) -> Iterator[TrialRecord]:
    """Record an attempt at a trial, with what is known of earlier ones.

    Args:
        trial: `keras_tuner.engine.trial.Trial`.
        folder: Of the trial, where the record is written.

    Raises:
        keras_tuner.errors.FailedTrialError: in place of errors that another attempt would repeat:
            too little memory, or a process that was killed too often.
    """
    before = _before(trial, folder)
    record = TrialRecord(
        trial.trial_id,
        dict(trial.hyperparameters.values),
        failures=before.failures,
        killed=before.killed + before.is_running,
        is_running=True,
    )
    record.save(folder)
    try:
        if record.killed >= MAX_KILLED:
            raise keras_tuner.errors.FailedTrialError(
                f"The process has been killed {record.killed} times in this trial. It may "
                "take more memory than there is."
            )
        yield record
    except Exception as error:
        record.failures.append(in_a_line(error))
        if _is_out_of_memory(error):
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        raise
    finally:  # also after an interrupt, which the trial did not cause
        record.is_running = False
        record.save(folder)


def in_a_line(error: BaseException) -> str:
    """Return the name and the message of an error."""
    return "".join(traceback.format_exception_only(error)).strip()


def _before(trial: Any, folder: Path) -> TrialRecord:
    """Return the record of an earlier attempt; an empty one if there is none to be read."""
    with contextlib.suppress(ValueError):  # a torn one would be in the way of every attempt
        return trial_record.read(folder) or TrialRecord(trial.trial_id)
    return TrialRecord(trial.trial_id)


def score(
    owner: str,
    record: TrialRecord,
    returned: Sequence[Any],
    objective: Any,
    advice: str = "Pass validation_data= to search",
) -> None:
    """Score the executions of a trial by what `HyperModel.fit` returned.

    Args:
        owner: String, the class of the tuner, for the error.
        record: `TrialRecord`.
        returned: What `HyperModel.fit` returned, for each execution.
        objective: KerasTuner's `Objective`.
        advice: String, how to have a metric of validation.

    Raises:
        keras_tuner.errors.FatalValueError: if the objective is not among what was returned.
    """
    for execution, one in zip(record.executions[-len(returned) :], returned, strict=True):
        try:
            metrics = metrics_of(one, objective)
        except KeyError as error:
            raise keras_tuner.errors.FatalValueError(
                f"{owner}(objective=...) must be among the metrics of fit. Received: "
                f"{objective.name!r}, but the metrics are {', '.join(execution.history)}. "
                f"{advice}, or compile the model with that metric."
            ) from error
        value = metrics.get(objective.name)
        execution.score = float(objective.get_value(metrics) if value is None else value)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)
