"""An objective for Optuna: its samplers, pruners and storages run trials of this package."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_freeze.backup import archive
from keras_freeze.checks import ArgumentError, ArgumentTypeError
from keras_freeze.features import shared
from keras_freeze.keras_internals.global_settings import GlobalSettings, settings_kept
from keras_freeze.keras_internals.keras_tuner import without_known_warnings
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import direction_by_name
from keras_freeze.tuning import kept_models, memory
from keras_freeze.tuning.attempts import in_a_line, score
from keras_freeze.tuning.freeze_tuner import check_builds
from keras_freeze.tuning.fresh_weights import FreshBuilds, FreshWeights
from keras_freeze.tuning.kept_models import KeptModels
from keras_freeze.tuning.optuna_parameters import OptunaParameters
from keras_freeze.tuning.optuna_pruning import Pruning, is_pruned
from keras_freeze.tuning.recorder import Recorder
from keras_freeze.tuning.results import SearchResults
from keras_freeze.tuning.search_folder import Search
from keras_freeze.tuning.trial_cache import TrialCache, trial_cache
from keras_freeze.tuning.trial_record import COMPLETED, FAILED, PRUNED, RUNNING, TrialRecord

_OWNER = "optuna_objective"


def optuna_objective(
    build: Any,
    *fit_args: Any,
    objective: str = "val_loss",
    directory: str | os.PathLike[str] | None = None,
    project_name: str | None = None,
    cache: bool | PrefixCache = True,
    prune: bool = True,
    **fit_kwargs: Any,
) -> OptunaObjective:
    """Return an objective for `optuna.Study.optimize`.

    A trial runs as under the tuners of this package: it begins with the pretrained weights, shares
    with others what frozen layers compute, and is recorded in a folder, from which `results_frame`
    and `plots.search` read. Optuna chooses, stores and retries. Build functions and hypermodels are
    those of KerasTuner, as far as they use `Int`, `Float`, `Choice`, `Boolean` and `Fixed` of `hp`,
    without scopes. Models of different depths need a name each for `freeze_depth`.

    An objective serves one study. With a pruner, each epoch's value is reported, and a trial may be
    pruned where a phase of its schedule has ended, after any epoch where there is none. Adaptive
    schedules are not pruned: in a race one epoch does not go on from the last.

    Workers in other processes share a study by its storage, and a folder by its name. For features
    that processes share, pass `cache=PrefixCache(directory=..., keep=True)`; others stay in memory
    as long as the objective, up to `max_bytes`. Trials of one process run one after the other,
    whatever `n_jobs` is.

    Args:
        build: Function that takes `hp` and returns a compiled `keras.Model`, or a
            `keras_tuner.HyperModel`.
        *fit_args: Of `fit`, such as `x` and `y`.
        objective: Str, the metric whose best epoch is the value of a trial. Defaults to
            `"val_loss"`.
        directory: Str or path, of the folder around that of the search. Defaults to the working
            directory.
        project_name: Str, of the folder of the search. Defaults to the study's name.
        cache: As for `DepthSweep`. Defaults to True.
        prune: Bool, whether to ask the study's pruner. Defaults to True.
        **fit_kwargs: Of `fit`; callbacks are copied for each trial.

    Returns:
        `OptunaObjective`.

    Raises:
        TypeError: if `build` is a model instead of what builds one, or `cache` or `prune` something
            else than they are.
        ValueError: if `objective` is not the name of a metric; in a trial, if the study has another
            direction than the metric, or several, or the folder holds another search.

    Example:
        >>> import numpy as np, optuna, tempfile
        >>> from keras_freeze import tuning
        >>> def build(hp):
        ...     low, head = keras.layers.Dense(3, name="low"), keras.layers.Dense(1, name="head")
        ...     model = keras.Sequential([keras.Input((4,)), low, head])
        ...     tuning.freeze_depth(hp, model, backbone="low")
        ...     model.compile(keras.optimizers.SGD(0.01), "mse")
        ...     return model
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> objective = optuna_objective(
        ...     build, x, y, objective="loss", directory=tempfile.mkdtemp(), epochs=2, verbose=0
        ... )
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> sampler = optuna.samplers.GridSampler({"freeze_depth": [0, 1]})
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective)
        >>> sorted(row["freeze_depth"] for row in objective.rows())
        [0, 1]

    Reference:
        - [Akiba et al., 2019](https://arxiv.org/abs/1907.10902): Optuna.
    """
    check_builds(_OWNER, "build", build)
    if not isinstance(objective, str) or not objective:
        raise ArgumentError(_OWNER, "objective", "be the name of a metric", value=objective)
    own_cache = trial_cache(_OWNER, cache)
    if not isinstance(prune, bool):
        raise ArgumentTypeError(_OWNER, "prune", "be a bool", value=prune)
    folder = Path(directory or "."), project_name
    return OptunaObjective(build, fit_args, fit_kwargs, objective, folder, own_cache, prune)


class OptunaObjective(SearchResults):
    """What `optuna_objective` returns: called with a trial of Optuna, it trains and scores.

    Args:
        build: As for `optuna_objective`.
        fit_args: Sequence, of `fit`.
        fit_kwargs: Mapping, of `fit`.
        metric: Str, what counts.
        folder: The folder around that of the search, and its name or None for the study's.
        cache: `PrefixCache` that each trial copies, None for none.
        prune: Bool.
    """

    def __init__(
        self,
        build: Any,
        fit_args: Sequence[Any],
        fit_kwargs: Mapping[str, Any],
        metric: str,
        folder: tuple[Path, str | None],
        cache: PrefixCache | None,
        prune: bool,
    ) -> None:
        self._fit_args, self._fit_kwargs = tuple(fit_args), dict(fit_kwargs)
        self._metric, self._folder, self._prunes = metric, folder, prune
        self._cache = cache
        self._fresh = FreshWeights()
        self._fresh.describes = False
        given = build if hasattr(build, "build") else _Function(build)
        self._hypermodel: Any = FreshBuilds(given, self._fresh)
        self._library = None if cache is None else cache.new_library()
        self._is_described = False
        self._study: str | None = None
        self._turn = threading.Lock()
        self._opened = None if folder[1] is None else folder[0] / folder[1]

    def __call__(self, trial: Any) -> float:
        """Train one trial.

        Args:
            trial: `optuna.Trial`.

        Returns:
            Float, the metric in the best epoch.

        Raises:
            optuna.TrialPruned: if the study's pruner says so.
        """
        if not hasattr(trial, "study"):
            raise ArgumentError(
                _OWNER,
                "",
                "be called with trials of a study",
                received=type(trial).__name__,
                advice="To try some values, write study.enqueue_trial({...}) before optimize.",
            )
        with self._turn:
            objective = self._objective(trial.study)
            self._open(trial.study, objective)
            return self._run(trial, objective)

    def _objective(self, study: Any) -> Any:
        """Return KerasTuner's `Objective` for a study."""
        directions = [direction.name for direction in study.directions]
        if len(directions) > 1:
            raise ArgumentError(
                _OWNER, "", "serve a study with one objective", received=", ".join(directions)
            )
        direction = "max" if directions[0] == "MAXIMIZE" else "min"
        if direction_by_name(self._metric) not in (None, direction):
            asked = "minimize" if direction == "max" else "maximize"
            raise ArgumentError(
                _OWNER,
                "objective",
                "be a metric that gets better in the direction of the study",
                received=f"{self._metric!r}, in a study that is to {directions[0].lower()}",
                advice=f'Write optuna.create_study(direction="{asked}").',
            )
        return keras_tuner.Objective(self._metric, direction)

    def _open(self, study: Any, objective: Any) -> None:
        around, name = self._folder
        folder = around / (name or study.study_name)
        if self._study not in (None, study.study_name):
            raise ArgumentError(
                _OWNER,
                "",
                "serve one study",
                received=f"study {study.study_name!r} after {self._study!r}",
                advice="Make another objective for it.",
            )
        settings = {"study": study.study_name}
        about = Search("Optuna", objective.name, objective.direction, settings=settings)
        about.check_folder(_OWNER, folder, "Pass another project_name=.")
        folder.mkdir(parents=True, exist_ok=True)
        about.save(folder)
        self._opened, self._study = folder, study.study_name

    @property
    def project_dir(self) -> str:
        """Path of the folder of the search, as text.

        Raises:
            ValueError: before the first trial, where the study is to name it.
        """
        if self._opened is None:
            raise ArgumentError(
                _OWNER,
                "project_name",
                "be given to ask for results before a trial has run",
                value=None,
            )
        return str(self._opened)

    def _run(self, trial: Any, objective: Any) -> float:
        folder = self._folder_of(trial)
        folder.mkdir(exist_ok=True)
        (folder / kept_models.BEST).unlink(missing_ok=True)  # of a study of the same name
        trial_id, kept = folder.name.removeprefix("trial_"), KeptModels()
        record = TrialRecord(trial_id, is_running=True)
        library = self._library
        sharing = contextlib.nullcontext() if library is None else shared(library)
        _write_status(folder, record, RUNNING)
        begun, status = time.perf_counter(), FAILED
        try:
            fresh, released = self._fresh.search(_OWNER), memory.release_traced_steps()
            with fresh, without_known_warnings(), sharing, released, settings_kept() as settings:
                model, hp = self._build(trial, settings)
                record.values = dict(trial.params)
                _write_status(folder, record, RUNNING)
                returned = self._fit(trial, hp, model, Recorder(record, folder, kept, objective))
            kept.save(folder)
            self._score(record, returned, objective)
            status = COMPLETED
            if math.isnan(record.scores[0]):  # which is a failure to Optuna too
                status = FAILED
                record.failures.append(f"{objective.name} is not a number (NaN)")
        except Exception as error:
            if is_pruned(error):
                status = PRUNED
            else:
                record.failures.append(in_a_line(error))
            raise
        finally:
            record.elapsed_s, record.is_running = time.perf_counter() - begun, False
            record.values = dict(trial.params)
            _write_status(folder, record, status)
        return record.scores[0]

    def _score(self, record: TrialRecord, returned: Any, objective: Any) -> None:
        """Score a trial by what its fit returned, if the epochs have not done so."""
        if returned is None:
            raise ArgumentError(
                _OWNER,
                "build",
                "have a fit that returns what model.fit returns, or a score",
                received="None",
            )
        is_history = isinstance(returned, keras.callbacks.History)
        if not (is_history and record.scores):
            score(_OWNER, record, [returned], objective, "Pass validation_data=")

    def _build(self, trial: Any, settings: GlobalSettings) -> tuple[keras.Model, OptunaParameters]:
        hp = OptunaParameters(trial)
        # The first is built twice, to know what builds share before anything trains.
        for _ in range(1 if self._is_described else 2):
            keras.utils.clear_session(free_memory=False)  # each trial's layers have the same names
            settings.apply()
            model = self._hypermodel.build(hp)
        self._is_described = True
        if not isinstance(model, keras.Model):
            raise ArgumentError(
                _OWNER, "build", "return a keras.Model", received=type(model).__name__
            )
        return model, hp

    def _fit(self, trial: Any, hp: OptunaParameters, model: keras.Model, recorder: Recorder) -> Any:
        callbacks = copy.deepcopy(keras.tree.flatten(self._fit_kwargs.get("callbacks") or []))
        if self._cache is not None:
            callbacks.append(TrialCache(self._cache))
        callbacks.append(recorder)
        if self._prunes:
            callbacks.append(Pruning(trial, recorder.objective))
        kwargs = {**self._fit_kwargs, "callbacks": callbacks}
        return self._hypermodel.fit(hp, model, *self._fit_args, **kwargs)

    def _folder_of(self, trial: Any) -> Path:
        return Path(self.project_dir) / f"trial_{trial.number:04d}"

    def load_model(self, trial: Any) -> keras.Model:
        """Return the model of a trial as it was at its best epoch.

        Args:
            trial: `optuna.trial.FrozenTrial`, such as `study.best_trial`.

        Raises:
            ValueError: if none was kept.
        """
        from optuna.trial import FixedTrial

        if not (self._folder_of(trial) / kept_models.BEST).exists():
            raise ArgumentError(
                f"{type(self).__name__}.load_model",
                "trial",
                "be one that was completed, of this folder",
                received=f"trial {trial.number} ({trial.state.name}), of which "
                f"{self.project_dir!r} holds no model",
            )
        with self._turn, self._fresh.search(_OWNER):
            hp = OptunaParameters(FixedTrial(trial.params))
            model: keras.Model = self._hypermodel.build(hp)
        kept_models.restore(model, self._folder_of(trial), kept_models.BEST)
        return model


class _Function(keras_tuner.HyperModel):
    """A build function as a hypermodel."""

    def __init__(self, function: Callable[[Any], keras.Model]) -> None:
        super().__init__()
        self.build = function


def _write_status(folder: Path, record: TrialRecord, status: str) -> None:
    """Record a trial as KerasTuner would, as far as the results read it."""
    record.save(folder)
    with archive.replacing(folder / "trial.json") as file:
        Path(file).write_text(json.dumps({"trial_id": record.trial_id, "status": status}))
