"""The program of a trial's process: `python -m keras_freeze.tuning.trial_program FOLDER`.

`trial_processes` starts it, and says what goes in and out.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_freeze.backup import archive
from keras_freeze.tuning.attempts import in_a_line
from keras_freeze.tuning.trial_processes import NEEDS, OUTCOME, Needs, Outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trial that comes by the standard input, and write its outcome.

    Args:
        arguments: Sequence of a string, the folder. Defaults to that of the process.
    """
    (folder,) = map(Path, sys.argv[1:] if arguments is None else arguments)
    given = pickle.load(sys.stdin.buffer)
    watched = _taken_input(), folder
    threading.Thread(target=_end_with_the_search, args=watched, daemon=True).start()
    outcome = _run(folder, *given)
    with archive.replacing(folder / OUTCOME) as file:
        Path(file).write_bytes(_pickled(outcome))


def _taken_input() -> int:
    """Return the standard input, which ends with the search; what runs here finds an empty one.

    As a number, since a lock of a stream that a thread reads would stop processes that fork.
    """
    taken, empty = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    return taken


def _end_with_the_search(taken: int, folder: Path) -> None:
    if not os.read(taken, 1):
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _run(folder: Path, trial: Any, record: Any, seed: int) -> Outcome:
    try:
        needs, tuner = _tuner(folder)
        keras.utils.set_random_seed(seed)
        metrics, step = tuner.run_packed(trial, record, *needs.fit_args, **needs.fit_kwargs)
    except BaseException as error:
        # `sys.exit`, for one, here ends a trial.
        failed = error if isinstance(error, Exception) else RuntimeError(in_a_line(error))
        return Outcome(
            hyperparameters=trial.hyperparameters, error=failed, trace=traceback.format_exc()
        )
    return Outcome(metrics, step, trial.hyperparameters)


def _tuner(folder: Path) -> tuple[Needs, Any]:
    """Return what the search has written, and its tuner as it is here."""
    try:
        with (folder / NEEDS).open("rb") as file:
            pickle.load(file).apply()
            needs: Needs = pickle.load(file)
        tuner = needs.kind.__new__(needs.kind)
        tuner.unpack(needs.state)
        return needs, tuner
    except Exception as error:
        raise keras_tuner.errors.FatalValueError(
            "What a search with isolate=True has written can't be read in the process of a trial "
            f"({type(error).__name__}: {error}). Make what it names inside the build function."
        ) from error


def _pickled(outcome: Outcome) -> bytes:
    """Return an outcome in bytes; an error that can't be sent as one that says the same."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(outcome)
        pickle.loads(data)
    except Exception:
        error = RuntimeError("" if outcome.error is None else in_a_line(outcome.error))
        return pickle.dumps(dataclasses.replace(outcome, error=error))
    return data


if __name__ == "__main__":
    main()
