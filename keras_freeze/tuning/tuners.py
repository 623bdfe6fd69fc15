"""KerasTuner's tuners, with what `FreezeTuner` adds to a trial."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, did_you_mean
from keras_freeze.engine import state_of
from keras_freeze.tuning import trial_record
from keras_freeze.tuning.freeze_tuner import FreezeTuner
from keras_freeze.tuning.kept_models import END
from keras_freeze.tuning.oracles import (
    BayesianOptimizationOracle,
    HyperbandOracle,
    RandomSearchOracle,
)

# Attempts after the first that a trial is given, and failed trials in a row that end a search.
MAX_RETRIES = 1
MAX_FAILURES = 10


class RandomSearch(FreezeTuner):
    """Search at random, as `keras_tuner.RandomSearch`, and try no values twice.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.RandomSearch`.
        max_trials: Int. Defaults to 10.
        **options: Further arguments of `keras_tuner.RandomSearch` (`seed`, `hyperparameters`,
            `tune_new_entries`, `allow_new_entries`, `max_retries_per_trial`, here 1 by default,
            `max_consecutive_failed_trials`, here 10), of `keras_tuner.Tuner` (`directory`,
            `project_name`, `overwrite`, `executions_per_trial` and others), `cache`: bool or
            `PrefixCache`, whether trials share the outputs of frozen layers, True by default;
            `isolate`: bool, whether each trial runs in a new process, so that a crash or an
            out-of-memory kill ends the trial and not the search, False by default; and, with a
            chief and workers, `worker_timeout_s`: float, seconds without a heartbeat after which a
            worker's trial goes to another, 60 by default, and `chief_timeout_s`: float, seconds
            that a worker waits for the chief, 900 by default.

    Raises:
        ValueError: if there is no such argument, or the folder holds another search.
    """

    def __init__(
        self, hypermodel: Any, objective: Any = None, max_trials: int = 10, **options: Any
    ) -> None:
        of_oracle, of_tuner = split_options(
            "RandomSearch", options, parameters_of(keras_tuner.oracles.RandomSearchOracle)
        )
        oracle = RandomSearchOracle(objective=objective, max_trials=max_trials, **of_oracle)
        super().__init__(oracle, hypermodel, **of_tuner)


class BayesianOptimization(FreezeTuner):
    """Search by a Gaussian process, as `keras_tuner.BayesianOptimization`; try no values twice.

    It needs scikit-learn: `pip install "keras_freeze[bayesian]"`.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.BayesianOptimization`.
        max_trials: Int. Defaults to 10.
        **options: Further arguments of `keras_tuner.BayesianOptimization` (`num_initial_points`,
            `alpha`, `beta`), and those of `RandomSearch`.

    Raises:
        ValueError: if there is no such argument, or the folder holds another search.
    """

    def __init__(
        self, hypermodel: Any, objective: Any = None, max_trials: int = 10, **options: Any
    ) -> None:
        of_oracle, of_tuner = split_options(
            "BayesianOptimization",
            options,
            parameters_of(keras_tuner.oracles.BayesianOptimizationOracle),
        )
        oracle = BayesianOptimizationOracle(objective=objective, max_trials=max_trials, **of_oracle)
        super().__init__(oracle, hypermodel, **of_tuner)


class Hyperband(FreezeTuner):
    """Train many models for a few epochs and the best further, as `keras_tuner.Hyperband`.

    A trial that resumes another starts from the last epoch of that one, with its optimizer's
    state and with what was unfrozen, and epochs are counted from the first: schedules span
    `max_epochs`, and each rung runs a part of them.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.Hyperband`.
        max_epochs: Int, epochs of a model that is trained to the end. Defaults to 100.
        factor: Int, by how much the number of models falls from rung to rung. Defaults to 3.
        hyperband_iterations: Int. Defaults to 1.
        **options: Those of `RandomSearch`.

    Raises:
        ValueError: if there is no such argument, or the folder holds another search.

    Reference:
        - [Li et al., 2018](https://jmlr.org/papers/v18/16-558.html): Hyperband.
    """

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        **options: Any,
    ) -> None:
        of_oracle, of_tuner = split_options(
            "Hyperband", options, parameters_of(keras_tuner.oracles.HyperbandOracle)
        )
        oracle = HyperbandOracle(
            objective=objective,
            max_epochs=max_epochs,
            factor=factor,
            hyperband_iterations=hyperband_iterations,
            **of_oracle,
        )
        self.total_epochs = max_epochs
        self._rungs = oracle.rungs()
        self._reported: set[tuple[str, tuple[int | None, ...]]] = set()
        super().__init__(oracle, hypermodel, **of_tuner)
        if self._rungs != oracle.rungs():
            raise ValueError(
                "Hyperband(max_epochs=..., factor=...) must be what the search began with. "
                f"Received: max_epochs={max_epochs}, factor={factor}, but the search in "
                f"{str(self.project_dir)!r} has rungs that end after {_listed(oracle.rungs())} "
                "epochs. Pass another project_name= for another search, or overwrite=True."
            )

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Search, as `keras_tuner.Tuner.search`; `epochs` are those of each rung.

        A schedule among the callbacks is checked before the search; one that `HyperModel.fit`
        makes, before its first trial, which fails if it can't be carried out.

        Raises:
            keras_tuner.errors.FatalValueError: if a schedule has a phase that begins after
                `max_epochs`, or depends on metrics or steps, which a trial that resumes another
                does not know.
        """
        callbacks = fit_kwargs.get("callbacks") or []
        schedules = [callback for callback in callbacks if isinstance(callback, FreezeScheduler)]
        if schedules and not self.is_worker:
            model = self.hypermodel.build(self.oracle.get_space())
            for schedule in schedules:
                try:
                    self.check_schedule(schedule, model)
                except keras_tuner.errors.FailedTrialError as error:
                    raise keras_tuner.errors.FatalValueError(str(error)) from error
        super().search(*fit_args, **fit_kwargs)

    def fit_kwargs_of(self, trial: Any, fit_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of `fit`, with the epochs of the trial's rung."""
        values = trial.hyperparameters.values
        if "tuner/epochs" not in values:
            return fit_kwargs
        epochs = {"epochs": values["tuner/epochs"], "initial_epoch": self._reached(values)}
        return {**fit_kwargs, **epochs}

    def build_model(self, hp: Any) -> Any:
        """Build the model of a trial, as the trial before left it if it resumes one."""
        model = super().build_model(hp)
        if "tuner/trial_id" in hp.values:
            self.restore_kept(model, hp.values["tuner/trial_id"], END.format(self.execution))
            state_of(model).has_exact_starts = True
        return model

    def _reached(self, values: Mapping[str, Any]) -> int:
        """Return the epoch to resume at: the trial before may have been stopped early."""
        planned: int = values["tuner/initial_epoch"]
        if "tuner/trial_id" not in values:
            return planned
        before = trial_record.read(Path(self.get_trial_dir(values["tuner/trial_id"])))
        return before.executions[self.execution].end if before and before.executions else planned

    def check_schedule(self, callback: FreezeScheduler, model: keras.Model) -> None:
        """Print which rungs end before a schedule's last phase; refuse what no rung can reach."""
        total = self._rungs[-1]
        starts = callback.phase_starts(model, total)
        known = [start for start in starts if start is not None]
        last = max(known, default=0)
        if len(known) < len(starts) or last >= total:
            begins = f"at epoch {last}" if len(known) == len(starts) else "by metrics or steps"
            raise keras_tuner.errors.FailedTrialError(
                f"Hyperband(max_epochs=...) must reach every phase of {callback!r}, whose last "
                f"phase begins {begins}. Received: max_epochs={total}. Pass more, or a schedule by "
                "epochs that ends sooner."
            )
        short = [epochs for epochs in self._rungs if epochs <= last]
        if short and (repr(callback), starts) not in self._reported:
            self._reported.add((repr(callback), starts))
            enough = [epochs for epochs in self._rungs if epochs > last]
            print(
                f"Hyperband: the last phase of the schedule begins at epoch {last}. Rungs that "
                f"end after {_listed(short)} epochs are judged before it; those of "
                f"{_listed(enough)} reach it."
            )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def split_options(
    owner: str, options: Mapping[str, Any], of_oracle: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split further arguments of a tuner into those for its oracle and those for `FreezeTuner`.

    Args:
        owner: String, the tuner's class.
        options: The arguments by name.
        of_oracle: Names of those that the oracle takes.

    Raises:
        ValueError: if neither takes one of them.
    """
    of_tuner = (set(parameters_of(FreezeTuner)) - {"settings"}) | set(
        parameters_of(keras_tuner.Tuner)
    )
    known = sorted(of_tuner.union(of_oracle))
    for name, value in options.items():
        if name not in known:
            raise ArgumentError(
                owner,
                name,
                "be one of its arguments",
                value=value,
                advice=f"{did_you_mean(name, known)}Further arguments: {', '.join(known)}.",
            )
    defaults = {
        "max_retries_per_trial": MAX_RETRIES,
        "max_consecutive_failed_trials": MAX_FAILURES,
    }
    given = {**defaults, **options}
    return (
        {name: value for name, value in given.items() if name not in of_tuner},
        {name: value for name, value in given.items() if name in of_tuner},
    )


def parameters_of(cls: type) -> list[str]:
    """Return the names of the arguments that a tuner or an oracle takes beyond what is fixed here.

    Example:
        >>> parameters_of(keras_tuner.oracles.RandomSearchOracle)[:2]
        ['seed', 'hyperparameters']
    """
    fixed = ("oracle", "hypermodel", "objective", "max_trials", "max_epochs", "factor")
    return [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in (*fixed, "hyperband_iterations") and parameter.kind != parameter.VAR_KEYWORD
    ]
