"""Run each trial of a search in a process of its own, which may crash, leak or be killed.

The process is a new one, never a fork: it runs `trial_program`. What a search needs is written to a
file once, functions of a notebook or a script by value; a trial goes in by the standard input, and
its outcome comes back in a file. A process whose standard input ends has lost its search, and ends
as well.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import inspect
import os
import pickle
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals.global_settings import GlobalSettings
from keras_freeze.tuning.trial_record import TrialRecord

PROGRAM = "keras_freeze.tuning.trial_program"
NEEDS, OUTCOME, FEATURES = "search.pkl", "outcome.pkl", "features"
# Once a process has ended: what is left of its output, where a process of its own holds that open.
_OUTPUT_S = 2.0
_POLL_S = 0.1


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a process needs beyond the trial.

    Attributes:
        numbers: Keras's settings of numbers by name, such as "floatx".
        settings: Its other settings.
        kind: The tuner's class.
        state: What the tuner's class makes a tuner of; see `FreezeTuner.packed`.
        fit_args: Of `fit`.
        fit_kwargs: Of `fit`.
    """

    numbers: Mapping[str, Any]
    settings: GlobalSettings
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
        kind: The tuner's class.
        state: As in `Needs`.
        fit_args: Of `fit`.
        fit_kwargs: Of `fit`.

    Raises:
        ImportError: if cloudpickle is missing.
        ValueError: if something can't be given to another process.
    """

    def __init__(
        self,
        owner: str,
        folder: Path,
        kind: type,
        state: Mapping[str, Any],
        fit_args: tuple[Any, ...],
        fit_kwargs: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        try:
            import cloudpickle
        except ImportError as error:
            raise ImportError(
                f"{owner}(isolate=True) needs cloudpickle, which gives functions of a notebook to "
                'another process: pip install "keras_freeze[isolate]".'
            ) from error
        numbers = {
            "floatx": keras.config.floatx(),
            "epsilon": keras.config.epsilon(),
            "image_data_format": keras.config.image_data_format(),
        }
        settings = GlobalSettings.now()
        if settings.distribution is not None:
            raise ArgumentError(
                owner,
                "isolate",
                "be False under a distribution of keras.distribution, whose devices belong to this "
                "process",
                value=True,
                advice="Set the distribution in the build function.",
            )
        needs = Needs(numbers, settings, kind, state, fit_args, fit_kwargs)
        try:
            with (folder / NEEDS).open("wb") as file:
                cloudpickle.dump(needs, file)
        except Exception as error:
            parts = {"hypermodel": state["hypermodel"], **_named(fit_args, fit_kwargs)}
            name, why = _culprit(parts) or ("isolate", error)
            raise ArgumentError(
                owner if name in ("hypermodel", "isolate") else f"{owner}.search",
                name,
                "be what another process can be given, with isolate=True",
                received=f"what can't be pickled ({type(why).__name__}: {why})",
                advice="Pass arrays, or a keras.utils.PyDataset; a tf.data pipeline and whatever "
                "else belongs to this process can be made in the build function or in "
                "HyperModel.fit.",
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
        outcome = self._folder / OUTCOME
        outcome.unlink(missing_ok=True)
        # As in this process: seeded where the user has seeded it, and other numbers for each trial.
        seed = random.getrandbits(32)
        with self._started() as process:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is said below
                pickle.dump((trial, record, seed), process.stdin)
                process.stdin.flush()
            _wait(process)
        if not outcome.exists():
            raise RuntimeError(_why_it_ended(trial.trial_id, process.returncode))
        found: Outcome = pickle.loads(outcome.read_bytes())
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
        sys.stdout.flush()
        is_terminal = sys.stdout is sys.__stdout__
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, str(self._folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=None if is_terminal else subprocess.PIPE,
            stderr=None if is_terminal else subprocess.STDOUT,
            # Ctrl-C in a terminal is for the search, which ends the process.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


class _InItsProcess(Exception):
    """The traceback of an error in a trial's process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process ends, and print what it prints where that goes through us."""
    if process.stdout is None:
        process.wait()
        return
    chunks: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, chunks), daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    quiet_s = 0.0
    while quiet_s < _OUTPUT_S:
        try:
            chunk = chunks.get(timeout=_POLL_S)
        except queue.Empty:
            quiet_s = 0.0 if process.poll() is None else quiet_s + _POLL_S
            continue
        if not chunk:
            process.wait()
            return
        sys.stdout.write(decoder.decode(chunk))
        sys.stdout.flush()


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
    why = ": the system does so where memory runs out" if name == "SIGKILL" else ""
    return f"The process of trial {trial_id} was ended by {name}{why}."


def _named(fit_args: tuple[Any, ...], fit_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    places = inspect.signature(keras.Model.fit).parameters
    return {**dict(zip(list(places)[1:], fit_args, strict=False)), **fit_kwargs}


def _culprit(parts: Mapping[str, Any]) -> tuple[str, Exception] | None:
    """Return the first of some arguments that can't be pickled, with what that raises."""
    import cloudpickle

    for name, value in parts.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:
            return name, error
    return None
