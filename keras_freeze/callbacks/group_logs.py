"""What the logs of an epoch tell of each layer group, where `log_details` asks for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from keras_freeze.callbacks.first_values import FirstValues
from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError
from keras_freeze.engine import recordings, state_of
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.optimizers import NORMS, skips_steps
from keras_freeze.measures import Look, WeightChange
from keras_freeze.model_picture import LayerGroup, ModelPicture, learning_rate_of, optimizers_of

Detail = Literal["phase", "gradients", "weights", "weight_change"]
Details: TypeAlias = bool | Collection[Detail]

# Gradients below this part of the head's, in a whole epoch, don't train a group.
_VANISHING = 1e-7
# The norm above which a gradient is warned of.
_EXPLODING = 1e3


def as_details(owner: str, given: Any) -> frozenset[str]:
    """Return what `log_details` asks for; raise in the name of `owner` if it is invalid."""
    if isinstance(given, bool):
        return frozenset({"phase"} if given else ())
    is_names = isinstance(given, Collection) and not isinstance(given, str)
    if not is_names or not set(given) <= set(get_args(Detail)):
        *names, last = (f'"{name}"' for name in get_args(Detail))
        rule = f"be True, False, or some of {', '.join(names)} and {last} in a list"
        raise ArgumentError(owner, "log_details", rule, value=given)
    return frozenset(given)


class GroupLogs:
    """The details of one fit.

    Args:
        details: What is asked for.
    """

    def __init__(self, details: frozenset[str]) -> None:
        self._details = details
        self._before: Look = {}
        self._trained: dict[str, list[int]] = {}
        #: What weights are compared with, where it is asked for how far they have moved.
        self.first_values: FirstValues | None = None
        self._warned: set[tuple[str, str]] = set()

    @property
    def compares_with_first_values(self) -> bool:
        """Whether it is asked for how far weights have moved since the training began."""
        return "weight_change" in self._details

    @property
    def records(self) -> frozenset[str]:
        """What has to be recorded of gradients."""
        return frozenset({NORMS} if "gradients" in self._details else ())

    def begin(self, plan: FitPlan, epoch: int) -> None:
        """Keep the values at the beginning of the training, where it is asked for them.

        Raises:
            ValueError: if the training goes on and they are not known.
        """
        state = state_of(plan.picture.model)
        if not self.compares_with_first_values:
            state.first_values = None if epoch == 0 else state.first_values
            return
        if epoch == 0:
            state.first_values = FirstValues()
        elif state.first_values is None:
            raise ArgumentError(
                plan.owner,
                "log_details",
                'have "weight_change" from the first epoch of a training on',
                received=f"a fit from epoch {epoch}, of a model whose first values are not known",
                advice="Ask for it in the fit from epoch 0 too, in the same process, or use "
                "keras_freeze.BackupAndRestore, which keeps them.",
            )
        self.first_values = state.first_values

    def begin_epoch(self, run: ScheduleRun) -> None:
        """See the weights that train in an epoch."""
        if "gradients" in self._details:
            picture = run.present_picture()
            self._before, self._trained = WeightChange().look(picture), _training_in(picture)
        if self.first_values is not None:
            self.first_values.see(run.present_picture())

    def of_epoch(self, run: ScheduleRun) -> dict[str, float]:
        """Return the details of an epoch that ends; warn of gradients that vanish or explode."""
        logs: dict[str, float] = {}
        if "phase" in self._details:
            logs |= _of_phase(run)
        if "gradients" in self._details:
            logs |= self._of_gradients(run)
        if "weights" in self._details:
            for group in run.present_picture().groups:
                logs |= _of_weights(group)
        if self.first_values is not None:
            changes = self.first_values.changes(run.present_picture())
            logs |= {f"weight_change/{name}": change for name, change in changes.items()}
        return logs

    def _of_gradients(self, run: ScheduleRun) -> dict[str, float]:
        picture, logs = run.present_picture(), {}
        norms, now = recordings.norms(picture.model), WeightChange().look(picture)
        training = _training_in(picture)
        known = {
            group.name: [norms[id(v)] for v in group.variables if id(v) in norms]
            for group in picture.groups
        }
        for group in picture.groups:
            name, change = group.name, math.nan
            logs[f"gradient_norm/{name}"] = recordings.root_mean_square(known[name])
            if name in now and training[name] == self._trained.get(name):
                change = WeightChange().change(self._before[name], now[name])
            logs[f"update_ratio/{name}"] = change
            self._warn_if_exploding(run, group, known[name])
        head = logs[f"gradient_norm/{picture.groups[-1].name}"]
        for group in picture.groups[:-1]:
            largest = math.sqrt(sum(norm.largest for norm in known[group.name]))
            is_known = any(norm.finite for norm in known[group.name])
            if is_known and largest < _VANISHING * head:
                self._warn(
                    "vanishing",
                    group,
                    f"the gradients of {group.label} were below {_VANISHING:g} of the head's in "
                    f"each step of epoch {run.epoch + 1} (at most {largest:.1e}), so that it "
                    "hardly trains. Freeze it, raise its rate, or look for saturated activations "
                    "and missing normalization above it",
                    run,
                )
        return logs

    def _warn_if_exploding(
        self, run: ScheduleRun, group: LayerGroup, own: list[recordings.Norms]
    ) -> None:
        advice = "Try clipnorm=, a lower rate for the group, or normalized inputs"
        bad = min((norm.not_finite_at for norm in own if norm.not_finite_at), default=0)
        worst = max(own, key=lambda norm: norm.largest, default=None)
        if bad:
            what, at = f"the norm of a gradient of {group.label} was not finite", bad
        elif worst is not None and math.sqrt(worst.largest) > _EXPLODING:
            norm = f"{math.sqrt(worst.largest):.1e}"
            what, at = f"a gradient of {group.label} had a norm of {norm}", worst.largest_at
        else:
            return
        # Those that joined in the middle of the epoch count from there. Of steps that a
        # LossScaleOptimizer skips nothing is known.
        at += run.batches_in_epoch - max(norms.steps for norms in own)
        is_known = not any(skips_steps(optimizer) for optimizer in optimizers_of(run.model))
        when = f"in step {at} of epoch {run.epoch + 1}" if is_known else f"in epoch {run.epoch + 1}"
        self._warn("exploding", group, f"{what} {when}. {advice}", run)

    def _warn(self, kind: str, group: LayerGroup, text: str, run: ScheduleRun) -> None:
        if (kind, group.name) not in self._warned:
            self._warned.add((kind, group.name))
            warnings.warn(f"{run.plan.owner}: {text}.", stacklevel=2)


def _training_in(picture: ModelPicture) -> dict[str, list[int]]:
    """Return by group which of its variables train."""
    return {g.name: [id(v) for v in g.variables if v.trainable] for g in picture.groups}


def _of_phase(run: ScheduleRun) -> dict[str, float]:
    logs: dict[str, float] = {"phase": run.progress.index, "frozen_groups": len(run.frozen)}
    rate, factors = learning_rate_of(run.model), run.curve_factors()
    if rate is not None:  # several optimizers have none to give
        for name, multiplier in run.multipliers.items():
            now = rate * multiplier * factors.get(name, 1.0) * (name not in run.frozen)
            logs[f"learning_rate/{name}"] = now
    return logs


def _of_weights(group: LayerGroup) -> dict[str, float]:
    arrays = [to_host(v).astype("float64") for v in group.variables if v.dtype != "string"]
    norm = math.hypot(*(float(np.linalg.norm(array)) for array in arrays))
    ranks = [effective_rank(array) for array in arrays if array.ndim > 1]
    logs = {f"weight_norm/{group.name}": norm}
    if ranks:
        logs[f"effective_rank/{group.name}"] = sum(ranks) / len(ranks)
    return logs


def effective_rank(matrix: np.ndarray) -> float:
    """Return the exponential of the entropy of a matrix's singular values, each a part of all.

    Args:
        matrix: Array of at least two dimensions, all but the last taken together.

    Returns:
        Float, from 1 to the rank of the matrix; 0 for zeros, NaN where a value is not finite.

    Reference:
        - Roy and Vetterli, 2007: The effective rank: a measure of effective dimensionality.

    Example:
        >>> round(effective_rank(np.eye(3)), 6), round(effective_rank(np.ones((3, 3))), 6)
        (3.0, 1.0)
    """
    if not np.isfinite(matrix).all():
        return math.nan
    values = np.linalg.svd(matrix.reshape(-1, matrix.shape[-1]), compute_uv=False)
    total = values.sum()
    if not total:
        return 0.0
    parts = values[values > 0] / total
    return float(np.exp(-(parts * np.log(parts)).sum()))
