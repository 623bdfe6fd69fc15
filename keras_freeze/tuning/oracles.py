"""What is asked of KerasTuner's oracles besides what they do: nothing twice, and nothing lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_tuner

from keras_freeze.tuning.files import replacing
from keras_freeze.tuning.trial_record import COMPLETED, FAILED, RUNNING

# Random draws after which a space counts as used up.
MOST_DRAWS = 1000


class _Careful:
    """Mixed into an oracle: tries nothing twice, and loses nothing if it is killed.

    The oracle lives with the chief where there are several machines.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_collisions = MOST_DRAWS

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial's values; other ones where they have been tried already."""
        found: dict[str, Any] = super().populate_space(trial_id)  # type: ignore[misc]
        if found["status"] != "RUNNING" or not self._is_tried(found["values"]):
            return found
        values = self._random_values()  # type: ignore[attr-defined]
        if values is None:
            return {"status": "STOPPED", "values": None}
        return {"status": "RUNNING", "values": values}

    def create_trial(self, tuner_id: str) -> Any:
        """Return the next trial; one that is begun again has no value of before."""
        trial = super().create_trial(tuner_id)  # type: ignore[misc]
        if trial.status == RUNNING:
            _forget_values(trial)
        return trial

    def save(self) -> None:
        """Write the state, whole or not at all."""
        with replacing(self._get_oracle_fname()) as file:  # type: ignore[attr-defined]
            super(keras_tuner.Oracle, self).save(file)  # type: ignore[misc]

    def _save_trial(self, trial: Any) -> None:
        folder = Path(self._get_trial_dir(trial.trial_id))  # type: ignore[attr-defined]
        with replacing(folder / "trial.json") as file:
            trial.save(file)

    def reload(self) -> None:
        """Take up the state; trials that were begun and have no end are begun again."""
        super().reload()  # type: ignore[misc]
        queue = self._retry_queue  # type: ignore[attr-defined]
        trials: Mapping[str, Any] = self.trials  # type: ignore[attr-defined]
        over = {i for i, trial in trials.items() if trial.status in (COMPLETED, FAILED)}
        begun = [i for i, trial in trials.items() if trial.status == RUNNING]
        queue[:] = dict.fromkeys(i for i in (*queue, *begun) if i not in over)
        for order, known in ((self.start_order, trials), (self.end_order, over)):  # type: ignore[attr-defined]
            order += [i for i in sorted(known) if i not in order]

    def _is_tried(self, values: dict[str, Any]) -> bool:
        return "tuner/trial_id" not in values and self._duplicate(values)  # type: ignore[attr-defined]

    def _retry(self, trial: Any) -> bool:
        """Send a failed trial for another attempt, without the values of the last."""
        is_again = super()._retry(trial)  # type: ignore[misc]
        if is_again:
            _forget_values(trial)
        return bool(is_again)

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """Return the best trials, of those that have come to an end."""
        best = super().get_best_trials(num_trials)  # type: ignore[misc]
        return [trial for trial in best if trial.status == COMPLETED]


class RandomSearchOracle(_Careful, keras_tuner.oracles.RandomSearchOracle):
    """Random values, none twice."""


class BayesianOptimizationOracle(_Careful, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values by a Gaussian process, none twice."""


class HyperbandOracle(_Careful, keras_tuner.oracles.HyperbandOracle):
    """Random values, of which the best train on; a space that is used up makes smaller rounds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._first_rounds: dict[int, int] = {}
        super().__init__(*args, **kwargs)

    def rungs(self) -> list[int]:
        """Return after how many epochs in all trials are compared, the fewest first."""
        brackets = range(self._get_num_brackets())
        ends = {self._get_epochs(b, r) for b in brackets for r in range(self._get_num_rounds(b))}
        return sorted(ends)

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = super()._random_trial(trial_id, bracket)
        if found["status"] == RUNNING:
            return found
        if not bracket["rounds"][0]:
            return found
        # No new values are left, so that the bracket goes on with those that it has.
        self._first_rounds[bracket["bracket_num"]] = len(bracket["rounds"][0])
        return self.populate_space(trial_id)

    def _start_new_bracket(self) -> None:
        self._first_rounds.pop(self._current_bracket, None)
        super()._start_new_bracket()

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        planned: int = super()._get_size(bracket_num, round_num)
        first = self._first_rounds.get(bracket_num, math.inf)
        if math.isinf(first):
            return planned
        return min(planned, math.ceil(first / self.factor**round_num))

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes, as plain data."""
        return {**super().get_state(), "first_rounds": list(self._first_rounds.items())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().set_state(state)
        self._first_rounds = dict(state["first_rounds"])


class DepthSweepOracle(_Careful, keras_tuner.Oracle):
    """Every freeze depth once, the deepest first, since it is the cheapest."""

    #: String, the name of the freeze depth among the hyperparameters.
    depth_name = ""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next depth, with the defaults of all else."""
        name = self.depth_name
        (depth,) = (p for p in self.hyperparameters.space if p.name == name)
        tried = {trial.hyperparameters.values.get(name) for trial in self.trials.values()}
        left = [value for value in sorted(depth.values, reverse=True) if value not in tried]
        if not left:
            return {"status": "STOPPED", "values": None}
        return {"status": RUNNING, "values": {**self.hyperparameters.values, name: left[0]}}

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes, as plain data."""
        return {**super().get_state(), "depth_name": self.depth_name}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().set_state(state)
        self.depth_name = state["depth_name"]


def _forget_values(trial: Any) -> None:
    trial.metrics = type(trial.metrics)()
    trial.score = None
