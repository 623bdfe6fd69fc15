"""Oracles, which choose the values to try next: none twice, even after an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_tuner

from keras_freeze.backup import archive
from keras_freeze.keras_internals.keras_tuner import (
    HEARTBEAT,
    OpenHyperbandOracle,
    OpenOracle,
    is_chief,
)
from keras_freeze.tuning.search_folder import TORN_TRIAL, read_json
from keras_freeze.tuning.trial_record import COMPLETED, FAILED, RUNNING

# KerasTuner's word where no trial is left, and its name for who hands out trials.
STOPPED, CHIEF = "STOPPED", "chief"

# Random draws of known values after which a space counts as exhausted.
MAX_DRAWS = 1000
# As good as any other.
SEED_FOR_0 = 2**31 - 1


class _CarefulOracle(OpenOracle):
    """Mixin for an oracle: it tries no values twice, and keeps its state if the process is killed.

    The oracle lives with the chief where there are several machines.
    """

    #: Bool, whether all that a search needs to go on is in the files of its trials.
    can_go_on_without_state = True
    #: Float, seconds without a heartbeat after which a worker's trial goes to another.
    worker_timeout_s = 60.0
    #: Bool, whether no trial is left, and none runs.
    is_exhausted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # When workers last sent a heartbeat, by their names.
        self._seen: dict[str, float] = {}
        if kwargs.get("seed") == 0:  # which KerasTuner takes for none
            kwargs["seed"] = SEED_FOR_0
        super().__init__(*args, **kwargs)
        self.set_max_draws(MAX_DRAWS)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial's values; others if these have been tried already."""
        found: dict[str, Any] = super().populate_space(trial_id)
        if found["status"] != RUNNING:
            return found
        is_resumed = "tuner/trial_id" in found["values"]
        if is_resumed or not self.is_duplicate(found["values"]):
            return found
        values = self.random_values()
        return {"status": STOPPED if values is None else RUNNING, "values": values}

    def create_trial(self, tuner_id: str) -> Any:
        """Return the next trial; one that is restarted without its earlier values.

        Where none is left and others still run, a worker waits: theirs may become free.
        """
        name = tuner_id.removeprefix(HEARTBEAT)
        self._seen[name] = time.monotonic()
        if name != tuner_id:
            return self.idle_trial()
        self._take_from_the_dead()
        trial = super().create_trial(tuner_id)
        if trial.status == RUNNING:
            trial.metrics = type(trial.metrics)()
            trial.score = None
        elif trial.status == STOPPED and self.ongoing_trials:
            self.tuner_ids.add(tuner_id)
            return self.idle_trial()
        elif trial.status == STOPPED:
            self.is_exhausted = True
        return trial

    def end_trial(self, trial: Any) -> None:
        """End a trial; one that has ended already stays as it was."""
        trial_id = trial.trial_id
        if trial_id in self.end_order:  # a worker that counted as dead, or did not hear the answer
            return
        if trial_id in self.retry_queue:
            if trial.status != COMPLETED:
                return
            self.retry_queue.remove(trial_id)
        super().end_trial(trial)

    def is_over(self) -> bool:
        """Tell whether no trial is left, and no worker has to hear it."""
        return self.is_exhausted and not any(map(self._lives, tuple(self.tuner_ids)))

    def _lives(self, name: str) -> bool:
        now = time.monotonic()
        return now - self._seen.setdefault(name, now) <= self.worker_timeout_s

    def _take_from_the_dead(self) -> None:
        """Queue the trials of workers that have sent no heartbeat for long."""
        for name in {*self.tuner_ids, *self.ongoing_trials}:
            if self._lives(name):
                continue
            self.tuner_ids.discard(name)
            trial = self.ongoing_trials.pop(name, None)
            if trial is not None:
                print(
                    f"{name} has sent no heartbeat for {self.worker_timeout_s:.0f} s: trial "
                    f"{trial.trial_id} goes to another worker."
                )
                self.retry_queue.append(trial.trial_id)
                self.save()

    def find_out_what_is_left(self) -> None:
        """Set `is_exhausted` of a search that is resumed by a chief."""
        if not self.trials:
            return
        trial = self.create_trial(CHIEF)
        self.tuner_ids.discard(CHIEF)
        if self.ongoing_trials.pop(CHIEF, None) is not None:
            self.retry_queue.append(trial.trial_id)

    def save(self) -> None:
        """Write the state, whole or not at all."""
        with archive.replacing(self.state_file()) as file:
            self.write_state(file)

    def save_trial(self, trial: Any) -> None:
        """Write a trial, whole or not at all."""
        with archive.replacing(Path(self.trial_folder(trial.trial_id)) / "trial.json") as file:
            trial.save(file)

    def reload(self) -> None:
        """Restore the state; unfinished trials are restarted.

        Raises:
            ValueError: if a file can't be read.
        """
        state = Path(self.state_file())
        for file in sorted(state.parent.glob("trial_*/trial.json")):
            read_json(file, TORN_TRIAL)
        is_lost = not state.exists()
        written: Mapping[str, Any] = {}
        if not is_lost:
            written = read_json(state, self._torn_state)
        elif self.can_go_on_without_state:
            self.write_state(str(state))  # that of a new search, for KerasTuner to read
        else:
            raise ValueError(f"A file of a search is missing: {state}. {self._torn_state}")
        super().reload()
        trials: Mapping[str, Any] = self.trials
        for trial in trials.values() if is_lost else ():
            self.update_space(trial.hyperparameters)
            self.record_values(trial)
        over = {i for i, trial in trials.items() if trial.status in (COMPLETED, FAILED)}
        begun = [i for i, trial in trials.items() if trial.status == RUNNING]
        if is_chief():  # whose workers may go on meanwhile
            ongoing = written.get("ongoing_trials", {}).items()
            self.ongoing_trials = {name: trials[i] for name, i in ongoing if i in begun}
            self.tuner_ids = set(written.get("tuner_ids", ()))
        waiting = dict.fromkeys([*self.retry_queue, *begun])
        taken = {trial.trial_id for trial in self.ongoing_trials.values()}
        self.retry_queue[:] = [i for i in waiting if i not in over | taken]
        # A trial that has ended and is to run again, by its file, can end again.
        self.end_order[:] = [i for i in self.end_order if i in over]
        for order, known in ((self.start_order, trials), (self.end_order, over)):
            order += [i for i in sorted(known) if i not in order]

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes, as plain data."""
        return {**super().get_state(), "tuner_ids": sorted(self.tuner_ids)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a state; a trial whose files were deleted since has failed."""
        known = {*state["start_order"], *state["end_order"], *self.trials}
        numbers = [int(i) for i in known if i.isdigit()]
        digits = max(map(len, known), default=1)
        # KerasTuner counts trials to name the next: with a gap it would take a name twice.
        known |= {f"{number:0{digits}}" for number in range(max(numbers, default=0))}
        for trial_id in sorted(known - self.trials.keys()):
            self.trials[trial_id] = self.failed_trial(trial_id, "Its files have been deleted.")
        super().set_state(state)

    @property
    def _torn_state(self) -> str:
        if self.can_go_on_without_state:
            return "Delete it: the search continues from what its trials have written."
        return (
            "Restore it from a copy, or pass overwrite=True to start over: without it this kind of "
            "search can't go on. `keras_freeze.tuning.results` still reads its trials."
        )

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """Return the best of the completed trials."""
        best = super().get_best_trials(num_trials)
        return [trial for trial in best if trial.status == COMPLETED]


class RandomSearchOracle(_CarefulOracle, keras_tuner.oracles.RandomSearchOracle):
    """Random values, none twice."""


class BayesianOptimizationOracle(_CarefulOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values by a Gaussian process, none twice."""


class HyperbandOracle(_CarefulOracle, OpenHyperbandOracle):
    """Random values, the best trained further; an exhausted space gives smaller rounds."""

    can_go_on_without_state = False  # which trials stand in which bracket is there alone

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # How many trials the first round of a bracket got, if the values ran out.
        self._first_rounds: dict[int, int] = {}
        super().__init__(*args, **kwargs)

    def random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        """Return new values; where none are left, continue the bracket with those that it has."""
        found = super().random_trial(trial_id, bracket)
        first_round = bracket["rounds"][0]
        if found["status"] == RUNNING or not first_round:
            return found
        self._first_rounds[bracket["bracket_num"]] = len(first_round)
        return self.populate_space(trial_id)

    def start_new_bracket(self) -> None:
        """Begin the next bracket, with its planned size."""
        self._first_rounds.pop(self.current_bracket, None)
        super().start_new_bracket()

    def round_size(self, bracket_num: int, round_num: int) -> int:
        """Return how many trials a round has, in proportion to the first round of its bracket."""
        planned = super().round_size(bracket_num, round_num)
        first = self._first_rounds.get(bracket_num)
        if first is None:
            return planned
        return min(planned, math.ceil(first / self.factor**round_num))

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes, as plain data."""
        return {**super().get_state(), "first_rounds": list(self._first_rounds.items())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        super().set_state(state)
        self._first_rounds = dict(state["first_rounds"])


class DepthSweepOracle(_CarefulOracle):
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
            return {"status": STOPPED, "values": None}
        return {"status": RUNNING, "values": {**self.hyperparameters.values, name: left[0]}}

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes, as plain data."""
        return {**super().get_state(), "depth_name": self.depth_name}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        super().set_state(state)
        self.depth_name = state["depth_name"]
