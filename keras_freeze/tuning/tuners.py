"""KerasTuner's tuners, with what `FreezeTuner` adds to a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.engine import state_of
from keras_freeze.tuning import trial_record
from keras_freeze.tuning.freeze_tuner import END, FreezeTuner
from keras_freeze.tuning.oracles import (
    BayesianOptimizationOracle,
    HyperbandOracle,
    RandomSearchOracle,
)

# Attempts after the first that a trial is given, and failed trials in a row that end a search.
RETRIES = 1
MOST_FAILURES = 10


class RandomSearch(FreezeTuner):
    """Search at random, as `keras_tuner.RandomSearch`, no values twice.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.RandomSearch`.
        max_trials: Int. Defaults to 10.
        seed: Int. Defaults to a random one.
        max_retries_per_trial: Int, further attempts at a trial that fails. Defaults to 1.
        max_consecutive_failed_trials: Int, failed trials in a row that end the search. Defaults
            to 10.
        hyperparameters: As for `keras_tuner.RandomSearch`.
        tune_new_entries: As for `keras_tuner.RandomSearch`.
        allow_new_entries: As for `keras_tuner.RandomSearch`.
        **kwargs: As for `keras_tuner.Tuner`: `directory`, `project_name`, `overwrite`,
            `executions_per_trial` and others.
    """

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_trials: int = 10,
        *,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = RETRIES,
        max_consecutive_failed_trials: int = MOST_FAILURES,
        **kwargs: Any,
    ) -> None:
        oracle = RandomSearchOracle(
            objective=objective,
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        super().__init__(oracle, hypermodel, **kwargs)


class BayesianOptimization(FreezeTuner):
    """Search by a Gaussian process, as `keras_tuner.BayesianOptimization`, no values twice.

    It needs scikit-learn: `pip install "keras_freeze[bayesian]"`.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.BayesianOptimization`.
        max_trials: Int. Defaults to 10.
        num_initial_points: Int, trials at random before the process is asked. Defaults to three
            times the number of hyperparameters.
        alpha: Float, the expected noise. Defaults to 1e-4.
        beta: Float, how much to explore. Defaults to 2.6.
        seed: Int. Defaults to a random one.
        max_retries_per_trial: Int, further attempts at a trial that fails. Defaults to 1.
        max_consecutive_failed_trials: Int, failed trials in a row that end the search. Defaults
            to 10.
        hyperparameters: As for `keras_tuner.BayesianOptimization`.
        tune_new_entries: As for `keras_tuner.BayesianOptimization`.
        allow_new_entries: As for `keras_tuner.BayesianOptimization`.
        **kwargs: As for `keras_tuner.Tuner`.
    """

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_trials: int = 10,
        *,
        num_initial_points: int | None = None,
        alpha: float = 1e-4,
        beta: float = 2.6,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = RETRIES,
        max_consecutive_failed_trials: int = MOST_FAILURES,
        **kwargs: Any,
    ) -> None:
        oracle = BayesianOptimizationOracle(
            objective=objective,
            max_trials=max_trials,
            num_initial_points=num_initial_points,
            alpha=alpha,
            beta=beta,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        super().__init__(oracle, hypermodel, **kwargs)


class Hyperband(FreezeTuner):
    """Train many for a few epochs and the best on, as `keras_tuner.Hyperband`.

    A trial that goes on does so from the last epoch of the one before it, with its optimizer's
    state and with what had thawed, and epochs are counted from the first: schedules are those of
    `max_epochs`, of which each rung plays its part.

    Args:
        hypermodel: `keras_tuner.HyperModel`, or a build function `(hp) -> keras.Model`.
        objective: As for `keras_tuner.Hyperband`.
        max_epochs: Int, epochs of a model that is trained to the end. Defaults to 100.
        factor: Int, by how much the number of models falls from rung to rung. Defaults to 3.
        hyperband_iterations: Int. Defaults to 1.
        seed: Int. Defaults to a random one.
        max_retries_per_trial: Int, further attempts at a trial that fails. Defaults to 1.
        max_consecutive_failed_trials: Int, failed trials in a row that end the search. Defaults
            to 10.
        hyperparameters: As for `keras_tuner.Hyperband`.
        tune_new_entries: As for `keras_tuner.Hyperband`.
        allow_new_entries: As for `keras_tuner.Hyperband`.
        **kwargs: As for `keras_tuner.Tuner`.

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
        *,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = RETRIES,
        max_consecutive_failed_trials: int = MOST_FAILURES,
        **kwargs: Any,
    ) -> None:
        oracle = HyperbandOracle(
            objective=objective,
            max_epochs=max_epochs,
            factor=factor,
            hyperband_iterations=hyperband_iterations,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        self.total_epochs = max_epochs
        self._rungs = oracle.rungs()
        self._told: set[tuple[str, tuple[int | None, ...]]] = set()
        super().__init__(oracle, hypermodel, **kwargs)
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
                `max_epochs`, or depends on logs or steps, which a trial that goes on does not
                know.
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

    def _build_hypermodel(self, hp: Any) -> keras.Model:
        model = super()._build_hypermodel(hp)
        if "tuner/trial_id" in hp.values:
            name = END.format(self.execution)
            model = self._restored(model, hp.values["tuner/trial_id"], name)
            state_of(model).has_exact_starts = True
        return model

    def _reached(self, values: Mapping[str, Any]) -> int:
        """Return where the trial before has ended, which may have been stopped early."""
        planned: int = values["tuner/initial_epoch"]
        if "tuner/trial_id" not in values:
            return planned
        before = trial_record.read(Path(self.get_trial_dir(values["tuner/trial_id"])))
        return before.executions[self.execution].end if before and before.executions else planned

    def check_schedule(self, callback: FreezeScheduler, model: keras.Model) -> None:
        """Say which rungs a schedule's phases are beyond; refuse what no rung can reach."""
        total = self._rungs[-1]
        starts = callback.phase_starts(model, total)
        known = [start for start in starts if start is not None]
        last = max(known, default=0)
        if len(known) < len(starts) or last >= total:
            begins = f"at epoch {last}" if len(known) == len(starts) else "by logs or steps"
            raise keras_tuner.errors.FailedTrialError(
                f"Hyperband(max_epochs=...) must reach every phase of {callback!r}, of which the "
                f"last begins {begins}. Received: max_epochs={total}. Pass more, or a schedule by "
                "epochs that is over sooner."
            )
        short = [epochs for epochs in self._rungs if epochs <= last]
        if short and (repr(callback), starts) not in self._told:
            self._told.add((repr(callback), starts))
            enough = [epochs for epochs in self._rungs if epochs > last]
            print(
                f"Hyperband: the last phase of the schedule begins at epoch {last}. Rungs that "
                f"end after {_listed(short)} epochs are judged before it; those of "
                f"{_listed(enough)} reach it."
            )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
