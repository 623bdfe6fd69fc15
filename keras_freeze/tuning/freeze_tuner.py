"""What every tuner of this package does with a trial."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import keras_tuner

from keras_freeze.backup import archive
from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_number
from keras_freeze.features import Library, shared
from keras_freeze.keras_internals.global_settings import settings_kept
from keras_freeze.keras_internals.keras_tuner import (
    OpenTuner,
    is_chief,
    outcome_of,
    without_known_warnings,
)
from keras_freeze.model_picture import count_params
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.tuning import kept_models, memory, trial_record
from keras_freeze.tuning.attempts import attempt, score
from keras_freeze.tuning.depth_in_force import depth_of
from keras_freeze.tuning.fresh_weights import FreshBuilds, FreshWeights
from keras_freeze.tuning.kept_models import KeptModels
from keras_freeze.tuning.recorder import Recorder, trained_part
from keras_freeze.tuning.results import SearchResults
from keras_freeze.tuning.search_folder import Search, read_json
from keras_freeze.tuning.trial_cache import TrialCache, trial_cache
from keras_freeze.tuning.trial_processes import FEATURES, Needs, TrialProcesses
from keras_freeze.tuning.trial_record import FAILED, Execution, TrialRecord

# Heartbeats of a worker in the time after which it counts as dead.
HEARTBEATS = 6


class FreezeTuner(SearchResults, OpenTuner):
    """A tuner whose trials start from fresh weights and record what trained when.

    A subclass may have a `run_trial` of its own, such as for a cross-validation: each
    `self.hypermodel.build(...)` in it returns a model with fresh weights, and its trials are in the
    results with their score, their time and what their first model trained.

    Args:
        oracle: `keras_tuner.Oracle`.
        hypermodel: As for `keras_tuner.Tuner`.
        cache: Bool, whether trials share the outputs of layers that they freeze at the same
            weights, and compute each once; or a `PrefixCache`, which is copied for each trial with
            its limits (`max_bytes`, `directory`) and `keep`. Unless it has `mode="inference"`, the
            results are the same up to rounding. Defaults to True.
        isolate: Bool, whether each trial runs in a new process, so that a crash, a leak or an
            out-of-memory kill ends the trial and not the search. Everything that it needs is
            pickled when a trial begins, functions and models by value, with cloudpickle; its
            start takes some seconds. Modules are imported anew, so that what was set in them is
            not, and what `callbacks` and a `run_trial` of yours change stays in that process.
            Trials share features through a temporary folder, in the cache's `directory` if it has
            one and up to its `max_bytes`, unless the cache keeps them. Defaults to False.
        worker_timeout_s: Float, seconds without a heartbeat after which a chief gives a worker's
            trial to another. Defaults to 60.
        chief_timeout_s: Float, seconds that a worker waits for a chief that does not answer.
            Defaults to 900.
        settings: Mapping of what else must be the same for a search that resumes.
        overwrite: As for `keras_tuner.Tuner`; refused on a worker.
        max_model_size: Int, parameters, frozen ones included, above which a trial fails.
        executions_per_trial: Int, trainings of a trial. Defaults to 1.
        directory: String or path, of the folder around that of the search. Defaults to the
            working directory.
        project_name: String, of the folder of the search. Defaults to `"untitled_project"`.
        **options: Further arguments of `keras_tuner.Tuner`.

    Raises:
        TypeError: if `hypermodel` is a model instead of what builds one.
        ValueError: if a worker is asked to overwrite, which would delete the others' files; if the
            folder holds another search, of another kind, model or objective, or a file that can't
            be read.
    """

    #: Int, the epochs of the whole training where a trial may be a part of it.
    total_epochs: int | None = None

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: Any = None,
        *,
        cache: bool | PrefixCache = True,
        isolate: bool = False,
        worker_timeout_s: float = 60.0,
        chief_timeout_s: float = 900.0,
        settings: Mapping[str, Any] = MappingProxyType({}),
        overwrite: bool = False,
        max_model_size: int | None = None,
        executions_per_trial: int = 1,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        **options: Any,
    ) -> None:
        owner = type(self).__name__
        check_builds(owner, "hypermodel", hypermodel)
        self._cache = trial_cache(owner, cache)
        if not isinstance(isolate, bool):
            raise ArgumentTypeError(owner, "isolate", "be a bool", value=isolate)
        if isolate and self._cache is not None and self._cache.on_device:
            raise ArgumentError(
                owner,
                "cache",
                "not keep features on the device with isolate=True, where trials share them in "
                "files",
                value=cache,
            )
        limits = {"worker_timeout_s": worker_timeout_s, "chief_timeout_s": chief_timeout_s}
        for name, limit in limits.items():
            if not is_number(limit) or limit <= 0:
                raise ArgumentError(owner, name, "be a positive number", value=limit)
        if overwrite and self.is_worker:
            raise ArgumentError(
                owner,
                "overwrite",
                "not be True on a worker",
                received=(
                    f"overwrite=True in {os.environ['KERASTUNER_TUNER_ID']!r}, which would delete "
                    "what the chief and the other workers have written"
                ),
                advice="Pass it on the chief alone, or delete the folder first.",
            )
        self._fresh = FreshWeights()
        # Of the trial that runs, and whether its models are noted as they are built.
        self._record: TrialRecord | None = None
        self._notes_builds = False
        self._max_params = max_model_size
        self._isolates = isolate
        # Those of the search that runs.
        self._processes: TrialProcesses | None = None
        self._own_oracle = oracle  # a worker's `oracle` asks the chief
        #: Outputs of frozen layers, which trials share during a search.
        self.library = Library()
        #: Int, the training of the current trial, where it has several.
        self.execution = 0
        #: What must be the same for a search that resumes.
        self.description = Search(
            type(oracle).__name__.removesuffix("Oracle"),
            oracle.objective.name,
            oracle.objective.direction,
            executions_per_trial,
            settings,
        )
        # KerasTuner's default, which is not known before it reads the folder.
        folder = Path(directory or ".") / (project_name or "untitled_project")
        if not overwrite:
            self.description.check_folder(owner, folder)
        with without_known_warnings(), settings_kept():
            super().__init__(
                oracle,
                hypermodel,
                overwrite=overwrite,
                executions_per_trial=executions_per_trial,
                directory=directory,
                project_name=project_name,
                **options,
            )
        oracle.worker_timeout_s = worker_timeout_s
        if self.is_worker:
            from keras_freeze.keras_internals.chief_and_workers import ChiefsOracle

            self.oracle = ChiefsOracle(oracle, chief_timeout_s)
        self._fresh.describes = False
        self.description.check_folder(owner, folder)  # now that the model is known
        self.description.save(Path(self.project_dir))

    @property
    def hypermodel(self) -> Any:
        """The user's hypermodel, whose models begin with fresh weights."""
        return self._hypermodel

    @hypermodel.setter
    def hypermodel(self, given: Any) -> None:
        self._user_hypermodel = given
        self._hypermodel = given and FreshBuilds(given, self._fresh, self._note_built)

    def space_populated(self) -> None:
        """Describe the model that the build function returns."""
        self._describe_model()

    def save(self) -> None:
        """Write the tuner's and the oracle's state, each whole or not at all."""
        if not self.is_worker:
            self.oracle.save()
        with archive.replacing(self.state_file()) as file:
            self.write_state(file)

    def reload(self) -> None:
        """Restore the state of a search, and build a model once to describe it."""
        if not self.is_worker:
            advice = "Replace what is in it by {}: it holds nothing."
            read_json(Path(self.state_file()), advice, may_be_empty=True)
        super().reload()
        self._describe_model()

    def _describe_model(self) -> None:
        with settings_kept():
            model = self.hypermodel.build(self.oracle.get_space()) if self.hypermodel else None
        if isinstance(model, keras.Model):  # KerasTuner refuses anything else later
            count = count_params(model.weights)
            self.description.model = f"{len(model.weights)} weights, {count:,} numbers"

    # The trials.

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Search, as `keras_tuner.Tuner.search`: the arguments are those of `fit`.

        Raises:
            RuntimeError: if every trial has failed, or too many have in a row.
            keras_tuner.errors.FatalValueError: if the search can't continue, such as for an
                objective that is not logged.
        """
        if is_chief():
            self._hand_out_trials(fit_kwargs)
        else:
            around = self._isolated(fit_args, fit_kwargs) if self._isolates else self._sharing()
            with around, self._as_a_worker():
                super().search(*fit_args, **fit_kwargs)
        found = self.rows()
        if found and not self.is_worker and all(row["status"] == FAILED for row in found):
            raise RuntimeError(self._why_none_is_complete(found))

    def _hand_out_trials(self, fit_kwargs: Mapping[str, Any]) -> None:
        from keras_freeze.keras_internals.chief_and_workers import serve

        oracle = self.oracle
        oracle.verbose = fit_kwargs.get("verbose", oracle.verbose)
        self.save()
        with without_known_warnings():
            oracle.find_out_what_is_left()
            serve(oracle, oracle.is_over)

    def _as_a_worker(self) -> contextlib.AbstractContextManager[None]:
        """Return what tells a chief inside that this process lives."""
        if not self.is_worker:
            return contextlib.nullcontext()
        return self.oracle.with_heartbeats(self._own_oracle.worker_timeout_s / HEARTBEATS)

    @contextlib.contextmanager
    def _sharing(self) -> Iterator[None]:
        """Let the trials inside begin with the same weights and settings, and share features."""
        sharing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._cache is not None:
            self.library = self._cache.new_library()
            sharing = shared(self.library)
        fresh = self._fresh.search(type(self).__name__)
        try:
            with fresh, without_known_warnings(), sharing, self.keeping_settings():
                yield
        finally:
            self.library.clear()

    @contextlib.contextmanager
    def _isolated(self, fit_args: tuple[Any, ...], fit_kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Run the trials inside in processes of their own."""
        owner = type(self).__name__
        cache = self._cache
        around = None if cache is None or cache.keep else cache.directory
        if around is not None:
            Path(around).mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="keras_freeze-", dir=around) as name,
            self._fresh.search(owner),
            without_known_warnings(),
        ):
            folder = Path(name)

            def needs() -> Needs:
                self._fresh.restore()  # layers of the user's that a build has taken
                return Needs(type(self), self.packed(folder / FEATURES), fit_args, fit_kwargs)

            self._processes = TrialProcesses(owner, folder, needs)
            try:
                yield
            finally:
                self._processes = None

    def packed(self, features: Path) -> dict[str, Any]:
        """Return what `unpack` makes a tuner of that runs trials of this search elsewhere.

        Args:
            features: Path of a folder for features, where the cache does not keep them in one.
        """
        here = ("_fresh", "_hypermodel", "_user_hypermodel", "_own_oracle", "_processes", "library")
        state = {name: value for name, value in vars(self).items() if name not in here}
        cache = copy.copy(self._cache)
        if cache is not None and not cache.keep:
            cache.keep, cache.directory = True, features
        state |= {"oracle": self._own_oracle, "_cache": cache}
        return {"hypermodel": self._user_hypermodel, **state}

    def unpack(self, state: Mapping[str, Any]) -> None:
        """Become a tuner that runs trials as the one does that was packed."""
        self._fresh = FreshWeights()
        self._fresh.describes = False
        for name, value in state.items():
            setattr(self, name, value)

    def run_packed(
        self, trial: Any, record: TrialRecord, *fit_args: Any, **fit_kwargs: Any
    ) -> tuple[dict[str, float], int]:
        """Run a trial for the search elsewhere, and leave its record in the trial's folder.

        Returns:
            Its metrics by name, and its best epoch (int, 0-based).
        """
        self.oracle.trials[trial.trial_id] = trial  # a worker's oracle knows none
        if self.hypermodel:  # to know what builds share, as is known where a search begins
            with settings_kept():
                self.hypermodel.build(trial.hyperparameters.copy())
        with self._sharing():
            self._record, self._notes_builds = record, True
            returned = self.run_trial(trial, *fit_args, **fit_kwargs)
            record.save(Path(self.get_trial_dir(trial.trial_id)))
            tracked, objective = trial.metrics, self.oracle.objective
            if tracked.exists(objective.name):  # which KerasTuner still takes from a `run_trial`
                best = {name: tracked.get_best_value(name) for name in tracked.metrics}
                return best, int(tracked.get_best_step(objective.name))
            return outcome_of(returned, objective)

    def _run_elsewhere(self, processes: TrialProcesses, trial: Any, record: TrialRecord) -> None:
        """Run a trial in a process of its own, and take what it found."""
        try:
            outcome = processes.run(trial, record)
        finally:  # also of a process that was killed
            written = trial_record.read(Path(self.get_trial_dir(trial.trial_id)))
            if written is not None:
                record.executions, record.freeze_depth = written.executions, written.freeze_depth
        self.oracle.update_trial(trial.trial_id, outcome.metrics, step=outcome.step)

    def on_trial_begin(self, trial: Any) -> None:
        """Begin a trial; an interrupted search resumes here from now on."""
        super().on_trial_begin(trial)
        self.save()

    def run_and_score(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run a trial and record how it ended, whoever wrote `run_trial`.

        Raises:
            keras_tuner.errors.FailedTrialError: if there is not enough memory, which another
                attempt would not have either.
        """
        begun = time.perf_counter()
        if self.kept_settings is not None:  # whatever the trial before has set
            self.kept_settings.apply()
        with attempt(trial, Path(self.get_trial_dir(trial.trial_id))) as record:
            self._record, self._notes_builds = record, True
            try:
                if self._processes is None:
                    super().run_and_score(trial, *fit_args, **fit_kwargs)
                else:
                    self._run_elsewhere(self._processes, trial, record)
            finally:
                self._record, self._notes_builds = None, False
                record.elapsed_s = time.perf_counter() - begun
                record.values = dict(trial.hyperparameters.values)
            if type(self).run_trial is not FreezeTuner.run_trial:
                record.returned_score = self._score_of(trial.trial_id)
                record.executions = record.executions or [Execution()]
            if math.isnan(record.score or 0.0):
                trial.message = f"{self.oracle.objective.name} is not a number (NaN)"
                record.failures.append(trial.message)

    def _score_of(self, trial_id: str) -> float:
        tracked = self.oracle.get_trial(trial_id).metrics
        values = {name: tracked.get_best_value(name) for name in tracked.metrics}
        return float(self.oracle.objective.get_value(values))

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> list[Any]:
        """Train the model of a trial, once or several times, and record what happened.

        Args:
            trial: `keras_tuner.engine.trial.Trial`.
            *fit_args: Of `fit`.
            **fit_kwargs: Of `fit`.

        Returns:
            List of what `HyperModel.fit` returned.
        """
        record, kept, returned = self._record or TrialRecord(trial.trial_id), KeptModels(), []
        if self._notes_builds:  # which the recorder does from here on
            self._notes_builds, record.executions = False, []
        with memory.release_traced_steps():
            for execution in range(self.executions_per_trial):
                self.execution = execution
                kwargs = {
                    **self.fit_kwargs_of(trial, fit_kwargs),
                    "callbacks": self._callbacks(trial, record, kept, fit_kwargs),
                }
                returned.append(self.build_and_fit(trial, *fit_args, **kwargs))
                # With hyperparameters that were first used in `fit`.
                record.values = dict(trial.hyperparameters.values)
        kept.save(Path(self.get_trial_dir(trial.trial_id)))
        score(type(self).__name__, record, returned, self.oracle.objective)
        return returned

    def _callbacks(
        self, trial: Any, record: TrialRecord, kept: KeptModels, fit_kwargs: Mapping[str, Any]
    ) -> list[Any]:
        """Return the callbacks of one training: the user's, KerasTuner's, and ours."""
        callbacks = self.callbacks_of(trial, self.execution, fit_kwargs.get("callbacks") or [])
        if self._cache is not None:
            callbacks.append(TrialCache(self._cache))
        recorder = Recorder(
            record,
            Path(self.get_trial_dir(trial.trial_id)),
            kept,
            self.oracle.objective,
            self.total_epochs,
            self.check_schedule,
        )
        return [*callbacks, recorder]

    def fit_kwargs_of(self, trial: Any, fit_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of `fit` for the current execution of a trial."""
        return fit_kwargs

    def check_schedule(self, callback: FreezeScheduler, model: keras.Model) -> None:
        """Called with the schedule of a trial before it begins, to refuse or report it."""

    def _note_built(self, model: keras.Model) -> None:
        """Note what the first model of a trial trains."""
        record = self._record
        if self._notes_builds and record is not None and not record.executions:
            depth = depth_of(model)
            record.freeze_depth = None if depth is None else depth.value
            if model.built:
                record.executions.append(Execution(parts=[trained_part(model, 0)]))

    def build_model(self, hp: Any) -> Any:
        """Build the model of a trial; refuse one that is too large."""
        model = super().build_model(hp)
        # KerasTuner itself counts trainable weights only.
        limit = self._max_params
        if limit is None or not isinstance(model, keras.Model) or not model.built:
            return model  # KerasTuner refuses what is no model
        if model.count_params() > limit:
            raise keras_tuner.errors.FailedTrialError(
                f"The model has {model.count_params():,} parameters, more than "
                f"max_model_size={limit:,}."
            )
        return model

    # The results.

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """Return the models of the best trials, as they were at their best epochs.

        Args:
            num_models: Int, how many.

        Returns:
            List of `keras.Model`, the best first.

        Raises:
            ValueError: if no trial is complete.
        """
        trials = self.oracle.get_best_trials(num_models)
        if not trials:
            raise ValueError(self._why_none_is_complete(self.rows()))
        models = [self.load_model(trial) for trial in trials[::-1]][::-1]
        if len(models) > 1 and any(self._fresh.shares(model) for model in models):
            warnings.warn(
                f"{type(self).__name__}.get_best_models({num_models}) returns models that share "
                "layers, so that only the first has its own weights. Build all layers in the build "
                "function, or ask for one model.",
                stacklevel=2,
            )
        return models

    def load_model(self, trial: Any) -> keras.Model:
        """Return the model of a trial as it was at its best epoch.

        Its weights, what trains, the modes of its BatchNorm layers and its optimizer's state are
        those of that epoch.

        Raises:
            ValueError: if none was kept.
        """
        model = self.checked_model(trial.hyperparameters)
        self.restore_kept(model, trial.trial_id, kept_models.BEST)
        return model

    def restore_kept(self, model: keras.Model, trial_id: str, name: str) -> None:
        """Give a model what a trial has kept under a name."""
        if not model.built:
            config = Path(self.build_config_file(trial_id)).read_text()
            model.build_from_config(json.loads(config))
        kept_models.restore(model, Path(self.get_trial_dir(trial_id)), name)

    def _why_none_is_complete(self, found: list[dict[str, Any]]) -> str:
        failures = [failure for row in found for failure in row["failures"]]
        last = f" The last failure: {failures[-1]}" if failures else ""
        return (
            f"{type(self).__name__}: of {len(found)} trials in {str(self.project_dir)!r} none is "
            f"complete. Pass overwrite=True to try all of them again.{last}"
        )


def check_builds(owner: str, argument: str, builds: Any) -> None:
    """Raise a `TypeError` for a model where a function that builds one is meant."""
    if isinstance(builds, keras.Model):
        raise ArgumentTypeError(
            owner,
            argument,
            "be a function that builds a model, since each trial trains a new one",
            received=f"the model {builds.name!r}",
            advice=f"Pass the function itself: `{owner}(build)`, not `{owner}(build())`; or "
            f"`{owner}(lambda: ...)` with the lines that make the model.",
        )
