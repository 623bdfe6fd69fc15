"""KerasTuner's tuner and oracles, with public names for the private methods that we rely on.

KerasTuner means its tuners to be subclassed, but much of what a trial goes through is in private
methods. The classes here override those in favour of public ones (`build_model`, `save_trial` and
others), so that what derives from them touches nothing private. The private names are looked up
when this module is imported, those of instances where they are used.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.distribute import utils
from keras_tuner.src.engine import base_tuner, trial as trials, tuner_utils

from keras_freeze.keras_internals.global_settings import GlobalSettings, settings_kept
from keras_freeze.keras_internals.required import require

# Those overridden below too: a release that renamed one would never call ours.
PRIVATE = (
    (
        keras_tuner.Tuner,
        "_build_hypermodel",
        "_configure_tensorboard_dir",
        "_populate_initial_space",
        "_build_and_fit_model",
        "_deepcopy_callbacks",
        "_get_build_config_fname",
        "_get_tuner_fname",
        "_is_worker",
        "_run_and_update_trial",
        "_try_build",
    ),
    (
        keras_tuner.Oracle,
        "_save_trial",
        "_duplicate",
        "_get_oracle_fname",
        "_get_trial_dir",
        "_random_values",
        "_record_values",
    ),
    (
        keras_tuner.oracles.HyperbandOracle,
        "_get_size",
        "_random_trial",
        "_start_new_bracket",
        "_get_epochs",
        "_get_num_brackets",
        "_get_num_rounds",
    ),
    (base_tuner, "BaseTuner"),
    (utils, "is_chief_oracle"),
    (trials, "Trial", "TrialStatus"),
    (
        tuner_utils,
        "TunerCallback",
        "convert_to_metrics_dict",
        "get_best_step",
        "validate_trial_results",
    ),
)


# Before a worker's name in a request for a trial, this makes it a heartbeat, which gets none. It is
# here, since `chief_and_workers` needs gRPC.
HEARTBEAT = "lives:"


def check() -> None:
    """Raise one clear error if searches can't work with the installed KerasTuner."""
    for owner, *names in PRIVATE:
        _require(owner, *names)


def _require(owner: Any, *names: str) -> None:
    require("run a search", "keras-tuner", owner, *names)


check()


def is_chief() -> bool:
    """Tell whether this process hands out the trials of a search to workers."""
    return bool(utils.is_chief_oracle())


class OpenTuner(keras_tuner.Tuner):
    """KerasTuner's tuner, with public names for what a subclass needs.

    Its trials are built with Keras's settings as they were when the search began.
    """

    #: Those that each build begins with; None outside of a search.
    kept_settings: GlobalSettings | None = None

    @property
    def is_worker(self) -> bool:
        """Bool, whether this process trains for a chief elsewhere."""
        return bool(self._is_worker())

    def build_model(self, hp: Any) -> Any:
        """Build the model of a trial; to be overridden."""
        return super()._build_hypermodel(hp)

    def space_populated(self) -> None:
        """Called when the hyperparameters of a new search are known; to be overridden."""

    def checked_model(self, hp: Any) -> keras.Model:
        """Build a model in a cleared session, and reject anything that is not a model."""
        return self._try_build(hp)

    def run_and_score(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Run a trial and tell the oracle its score; to be overridden."""
        super()._run_and_update_trial(trial, *args, **kwargs)

    def build_and_fit(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the model of a trial, train it, and return what `HyperModel.fit` returned."""
        return self._build_and_fit_model(trial, *args, **kwargs)

    def callbacks_of(self, trial: Any, execution: int, given: Iterable[Any]) -> list[Any]:
        """Return copies of the user's callbacks, and KerasTuner's own, for one training."""
        callbacks: list[Any] = self._deepcopy_callbacks(list(given))
        self._configure_tensorboard_dir(callbacks, trial, execution)
        return [*callbacks, tuner_utils.TunerCallback(self, trial)]

    def build_config_file(self, trial_id: str) -> str:
        """Return the file with the shapes on which a trial's model was built."""
        return str(self._get_build_config_fname(trial_id))

    def state_file(self) -> str:
        """Return the file of the tuner's state."""
        return str(self._get_tuner_fname())

    def write_state(self, file: str) -> None:
        """Write the tuner's own state, without its oracle's."""
        super(base_tuner.BaseTuner, self).save(file)

    @contextlib.contextmanager
    def keeping_settings(self) -> Iterator[None]:
        """Build the models inside with Keras's present settings, and leave these at the end."""
        with settings_kept() as self.kept_settings:
            try:
                yield
            finally:
                self.kept_settings = None

    def _try_build(self, hp: Any) -> Any:  # which clears the session first
        if self.kept_settings is not None:
            return super()._try_build(hp)
        with self.keeping_settings():
            return super()._try_build(hp)

    def _build_hypermodel(self, hp: Any) -> Any:
        if self.kept_settings is not None:
            self.kept_settings.apply()
        return self.build_model(hp)

    def _run_and_update_trial(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        self.run_and_score(trial, *args, **kwargs)

    def _populate_initial_space(self) -> None:
        super()._populate_initial_space()
        self.space_populated()

    def _configure_tensorboard_dir(self, callbacks: Any, trial: Any, execution: int = 0) -> None:
        # KerasTuner imports tensorboard whether or not it is used.
        if any(type(callback).__name__ == "TensorBoard" for callback in callbacks):
            super()._configure_tensorboard_dir(callbacks, trial, execution)


class OpenOracle(keras_tuner.Oracle):
    """KerasTuner's oracle, with public names for what a subclass needs."""

    def set_max_draws(self, count: int) -> None:
        """Set how many random draws of values already tried mark a space as exhausted."""
        _require(self, "_max_collisions")
        self._max_collisions = count

    @property
    def retry_queue(self) -> list[str]:
        """The ids of trials that get another attempt."""
        _require(self, "_retry_queue")
        queue: list[str] = self._retry_queue
        return queue

    def is_duplicate(self, values: dict[str, Any]) -> bool:
        """Tell whether values have been tried already."""
        return bool(self._duplicate(values))

    def random_values(self) -> dict[str, Any] | None:
        """Return random values that have not been tried; None if none are left."""
        values: dict[str, Any] | None = self._random_values()
        return values

    def record_values(self, trial: Any) -> None:
        """Count the values of a trial among those that have been tried."""
        self._record_values(trial)

    def idle_trial(self) -> Any:
        """Return what stands for no trial yet."""
        return trials.Trial(self.get_space(), "", trials.TrialStatus.IDLE)

    def failed_trial(self, trial_id: str, why: str) -> Any:
        """Return a trial that has failed, without values."""
        space = self.get_space()
        space.values = {}
        return trials.Trial(space, trial_id, trials.TrialStatus.FAILED, why)

    def state_file(self) -> str:
        """Return the file of the oracle's state."""
        return str(self._get_oracle_fname())

    def write_state(self, file: str) -> None:
        """Write the oracle's state."""
        super(keras_tuner.Oracle, self).save(file)

    def trial_folder(self, trial_id: str) -> str:
        """Return the folder of a trial."""
        return str(self._get_trial_dir(trial_id))

    def save_trial(self, trial: Any) -> None:
        """Write a trial; to be overridden."""
        super()._save_trial(trial)

    def _save_trial(self, trial: Any) -> None:
        self.save_trial(trial)


class OpenHyperbandOracle(keras_tuner.oracles.HyperbandOracle):
    """KerasTuner's Hyperband, with public names for its brackets (rounds of halving)."""

    def rungs(self) -> list[int]:
        """Return the total numbers of epochs after which trials are compared, ascending."""
        ends = set()
        for bracket in range(self._get_num_brackets()):
            for round_number in range(self._get_num_rounds(bracket)):
                ends.add(self._get_epochs(bracket, round_number))
        return sorted(ends)

    @property
    def current_bracket(self) -> int:
        """Int, the bracket that is being filled."""
        _require(self, "_current_bracket")
        return int(self._current_bracket)

    def random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a new trial of a bracket's first round; to be overridden."""
        found: dict[str, Any] = super()._random_trial(trial_id, bracket)
        return found

    def start_new_bracket(self) -> None:
        """Begin the next bracket; to be overridden."""
        super()._start_new_bracket()

    def round_size(self, bracket_num: int, round_num: int) -> int:
        """Return how many trials a round of a bracket has; to be overridden."""
        return int(super()._get_size(bracket_num, round_num))

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        return self.random_trial(trial_id, bracket)

    def _start_new_bracket(self) -> None:
        self.start_new_bracket()

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        return self.round_size(bracket_num, round_num)


def metrics_of(returned: Any, objective: Any) -> dict[str, Any]:
    """Return what `HyperModel.fit` returned as metrics by name.

    Raises:
        KeyError: if it lacks the objective.
    """
    metrics: dict[str, Any] = tuner_utils.convert_to_metrics_dict(returned, objective)
    return metrics


def outcome_of(returned: Any, objective: Any) -> tuple[dict[str, float], int]:
    """Return what `Tuner.run_trial` returned as metrics by name, and the best epoch (0-based).

    Raises:
        keras_tuner.errors.FatalError: if it is neither metrics nor a history.
    """
    tuner_utils.validate_trial_results(returned, objective, "Tuner.run_trial()")
    metrics = {name: float(value) for name, value in metrics_of(returned, objective).items()}
    return metrics, int(tuner_utils.get_best_step(returned, objective))


@contextlib.contextmanager
def without_known_warnings() -> Iterator[None]:
    """Silence what KerasTuner causes itself on current versions of Python and its libraries."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"keras_tuner\.")
        # Of a score that is NaN, which the trial's record says.
        warnings.filterwarnings("ignore", message="All-NaN", category=RuntimeWarning)
        # Of the Gaussian process, on a space with few values.
        warnings.filterwarnings("ignore", module=r"sklearn\.gaussian_process\.")
        yield
