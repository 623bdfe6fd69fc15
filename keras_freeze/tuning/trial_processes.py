"""Run each trial of a search in a process of its own, which may crash, leak or be killed.

The process is a new one, never a fork: it runs `trial_program`. What a search needs, the data too,
is written to a file before each trial, functions of a notebook or a script by value; the trial goes
in by the standard input, and its outcome comes back in a file. A process whose standard input ends
has lost its search, and ends as well.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import math
import os
import pickle
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals.global_settings import GlobalSettings
from keras_freeze.tuning.trial_record import TrialRecord

PROGRAM = "keras_freeze.tuning.trial_program"
NEEDS, OUTCOME, FEATURES = "search.pkl", "outcome.pkl", "features"
# For a process that has written its outcome to end.
_EXIT_S = 60.0
# For what a process that has ended still prints, by others that it has started.
_OUTPUT_S = 2.0
_POLL_S = 0.1
_NUMBERS = ("floatx", "epsilon", "image_data_format", "max_epochs", "max_steps_per_epoch")
# The arguments of `fit` in their order.
_PLACES = tuple(inspect.signature(keras.Model.fit).parameters)[1:]


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What has to be as it is here before anything else is read.

    Attributes:
        numbers: Keras's settings of numbers by name, such as "floatx".
        settings: Its other settings.
        registered: Classes and functions that are registered with Keras, by name.
    """

    numbers: Mapping[str, Any]
    settings: GlobalSettings
    registered: Mapping[str, Any]

    @classmethod
    def now(cls) -> Surroundings:
        """Return those of this process."""
        numbers = {name: getattr(keras.config, name)() for name in _NUMBERS}
        return cls(numbers, GlobalSettings.now(), dict(keras.saving.get_custom_objects()))

    def apply(self) -> None:
        """Make this process alike."""
        for name, value in self.numbers.items():
            getattr(keras.config, f"set_{name}")(value)
        self.settings.apply()
        keras.saving.get_custom_objects().update(self.registered)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a process needs beyond the trial.

    Attributes:
        kind: The tuner's class.
        state: What the tuner's class makes a tuner of; see `FreezeTuner.packed`.
        fit_args: Of `fit`.
        fit_kwargs: Of `fit`.
    """

    kind: Any
    state: Mapping[str, Any]
    fit_args: tuple[Any, ...]
    fit_kwargs: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        metrics: Floats by name; None where it failed.
        step: Int, the best epoch, 0-based.
        hyperparameters: `keras_tuner.HyperParameters`, with those that were first used in it.
        error: What it raised; None where it did not.
        trace: String, the traceback.
    """

    metrics: Mapping[str, float] | None = None
    step: int = 0
    hyperparameters: Any = None
    error: BaseException | None = None
    trace: str = ""


class TrialProcesses:
    """The processes of a search, one after the other.

    Args:
        owner: String, the tuner's class, for errors.
        folder: Path of a folder of this search alone, on this host.
        needs: Returns the `Needs` of a trial, as they are when it begins.

    Raises:
        ImportError: if cloudpickle is missing.
        ValueError: if something can't be given to another process.
    """

    def __init__(self, owner: str, folder: Path, needs: Callable[[], Needs]) -> None:
        self._owner, self._folder, self._needs = owner, folder, needs
        if importlib.util.find_spec("cloudpickle") is None:
            raise ImportError(
                f"{owner}(isolate=True) needs cloudpickle, which gives functions of a notebook to "
                'another process: pip install "keras_freeze[isolate]".'
            )
        if keras.distribution.distribution() is not None:
            raise ArgumentError(
                owner,
                "isolate",
                "be False under a distribution of keras.distribution, whose devices belong to this "
                "process",
                value=True,
                advice="Set the distribution in the build function.",
            )
        self._write(proves=True)

    def _write(self, *, proves: bool = False) -> None:
        from keras_freeze.tuning.exact_pickle import ExactPickler

        needs = self._needs()
        try:
            with (self._folder / NEEDS).open("wb") as file:
                for part in (Surroundings.now(), needs):
                    ExactPickler(file, proves=proves).dump(part)
        except OSError:
            raise
        except Exception as error:
            name, why = _culprit(needs) or ("isolate", error)
            name = "isolate" if name.startswith("_") else name
            is_argument = name in needs.fit_kwargs or name in _PLACES
            raise ArgumentError(
                f"{self._owner}.search" if is_argument else self._owner,
                name,
                "be what another process can be given, with isolate=True",
                received=f"what can't be pickled ({type(why).__name__}: {why})",
                advice="Make models, layers, tf.data pipelines and whatever else belongs to this "
                "process in the build function or in HyperModel.fit; pass data as arrays or a "
                "keras.utils.PyDataset.",
            ) from error

    def run(self, trial: Any, record: TrialRecord) -> Outcome:
        """Run a trial in a new process, and wait until it ends.

        Args:
            trial: `keras_tuner.engine.trial.Trial`.
            record: `TrialRecord` of the attempt.

        Returns:
            `Outcome`, without an error.

        Raises:
            Exception: what the trial raised.
            RuntimeError: if the process ended without an outcome.
        """
        self._write()
        outcome = self._folder / OUTCOME
        outcome.unlink(missing_ok=True)
        # As in this process: seeded where the user has seeded it, and other numbers for each trial.
        seed = random.getrandbits(32)
        with self._started() as process:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is said below
                pickle.dump((trial, record, seed), process.stdin)
                process.stdin.flush()
            _wait(process, outcome)
        if not outcome.exists():
            raise RuntimeError(_why_it_ended(trial.trial_id, process.returncode))
        found: Outcome = pickle.loads(outcome.read_bytes())
        if found.hyperparameters is not None:
            trial.hyperparameters = found.hyperparameters
        if found.error is not None:
            raise found.error from _InItsProcess(found.trace)
        return found

    @contextlib.contextmanager
    def _started(self) -> Iterator[Any]:
        paths = [path or os.getcwd() for path in sys.path]
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",  # else TensorFlow says the same at each start
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        if sys.stdout is not None and hasattr(sys.stdout, "flush"):
            sys.stdout.flush()
        is_ours = sys.stdout is sys.__stdout__ and sys.stdout is not None
        process = subprocess.Popen(
            # -P, since the present folder need not be among the paths.
            [sys.executable, "-P", "-m", PROGRAM, str(self._folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=None if is_ours else subprocess.PIPE,
            stderr=None if is_ours else subprocess.STDOUT,
            # Ctrl-C in a terminal is for the search, which ends the process.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if os.name == "posix":  # and what it has started
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


class _InItsProcess(Exception):
    """The traceback of an error in a trial's process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _wait(process: subprocess.Popen[bytes], outcome: Path) -> None:
    """Wait until a process ends, and print what it prints where that goes through us."""
    chunks: queue.Queue[bytes] = queue.Queue()
    if process.stdout is not None:
        threading.Thread(target=_read, args=(process.stdout, chunks), daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    is_read, has_ended, end = process.stdout is None, False, math.inf
    while time.monotonic() < end and not (has_ended and is_read):
        try:
            chunk = chunks.get(timeout=_POLL_S)
        except queue.Empty:
            chunk = None
        if chunk and sys.stdout is not None:
            print(decoder.decode(chunk), end="", flush=hasattr(sys.stdout, "flush"))
        is_read = is_read or chunk == b""
        if not has_ended and process.poll() is not None:
            has_ended, end = True, time.monotonic() + _OUTPUT_S
        elif end == math.inf and outcome.exists():
            end = time.monotonic() + _EXIT_S


def _read(stream: Any, chunks: queue.Queue[bytes]) -> None:
    with contextlib.suppress(ValueError):  # closed meanwhile
        while chunk := stream.read1():
            chunks.put(chunk)
        chunks.put(b"")


def _why_it_ended(trial_id: str, status: int) -> str:
    """Say how a process ended that left no outcome."""
    if status >= 0:
        return (
            f"The process of trial {trial_id} ended with status {status} and without a result; "
            "what it printed says why."
        )
    name = signal.Signals(-status).name
    why = ", as systems do where memory runs out" if name == "SIGKILL" else ""
    return f"The process of trial {trial_id} was ended by {name}{why}."


def _culprit(needs: Needs) -> tuple[str, Exception] | None:
    """Return the first of some arguments that can't be pickled, with what that raises."""
    from keras_freeze.tuning.exact_pickle import ExactPickler

    places = dict(zip(_PLACES, needs.fit_args, strict=False))
    for name, value in {**needs.state, **places, **needs.fit_kwargs}.items():
        try:
            ExactPickler(io.BytesIO(), proves=True).dump(value)
        except Exception as error:
            return name, error
    return None
