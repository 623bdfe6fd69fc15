"""The program of a trial's process: `python -m keras_freeze.tuning.trial_program FOLDER`.

`trial_processes` starts it, and says what goes in and out.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_freeze.tuning.trial_processes import NEEDS, OUTCOME, Needs, Outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trial that comes by the standard input, and write its outcome.

    Args:
        arguments: Sequence of a string, the folder. Defaults to that of the process.
    """
    (folder,) = map(Path, sys.argv[1:] if arguments is None else arguments)
    given = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_search, daemon=True).start()
    outcome = _run(folder, *given)
    (folder / OUTCOME).write_bytes(_pickled(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever a library would do at the end of a process, the outcome is there


def _end_with_the_search() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _run(folder: Path, trial: Any, record: Any, seed: int) -> Outcome:
    try:
        needs, tuner = _tuner(folder)
        keras.utils.set_random_seed(seed)
        metrics, step = tuner.run_packed(trial, record, *needs.fit_args, **needs.fit_kwargs)
    except Exception as error:
        return Outcome(error=error, trace=traceback.format_exc())
    except BaseException as error:  # such as by `sys.exit`, which here ends a trial
        return Outcome(error=RuntimeError(_in_a_line(error)), trace=traceback.format_exc())
    return Outcome(metrics, step, trial.hyperparameters)


def _tuner(folder: Path) -> tuple[Needs, Any]:
    """Return what the search has written, and its tuner as it is here."""
    try:
        with (folder / NEEDS).open("rb") as file:
            needs: Needs = pickle.load(file)
        for name, value in needs.numbers.items():
            getattr(keras.config, f"set_{name}")(value)
        needs.settings.apply()
        tuner = needs.kind.__new__(needs.kind)
        tuner.unpack(needs.state)
        return needs, tuner
    except Exception as error:
        raise keras_tuner.errors.FatalValueError(
            "What a search with isolate=True has written can't be read in the process of a trial "
            f"({type(error).__name__}: {error}). Make models and layers of your own classes inside "
            "the build function, or register the classes "
            "(keras.saving.register_keras_serializable)."
        ) from error


def _pickled(outcome: Outcome) -> bytes:
    """Return an outcome in bytes; an error that can't be sent as one that says the same."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(outcome)
        pickle.loads(data)
    except Exception:
        error = RuntimeError(_in_a_line(outcome.error))
        return pickle.dumps(Outcome(error=error, trace=outcome.trace))
    return data


def _in_a_line(error: BaseException | None) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


if __name__ == "__main__":
    main()
