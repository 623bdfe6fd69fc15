"""`AutoFreeze`: everything trains at first, and groups freeze from the input up as they settle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.callbacks.group_logs import Details
from keras_freeze.checks import ArgumentError, check_count, is_int, is_number
from keras_freeze.groups import Backbone, Groups
from keras_freeze.measures import Gauge, gauge_for
from keras_freeze.policies import BatchNormMode, KeepFrozen
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import ByDecisions, Planner, Rates, Settling, Tolerance, direction

Criterion = (
    Literal["gradient", "weight_change", "svcca", "cka"] | Callable[[np.ndarray, np.ndarray], float]
)


class AutoFreeze(FreezeScheduler):
    """Freeze layer groups while the model trains, from the input up, as they settle.

    Training is divided into intervals. After each, it is measured how much every group that trains
    has changed, and the groups below the lowest whose change reaches a percentile of all changes
    are frozen. The head takes no part in that and never freezes. What is frozen is computed once
    instead of in every epoch, where the cache can.

    The change of a group is, by `criterion`:

    - `"gradient"`: the relative change of the L1 norm of its gradients, added up over an interval.
      They are those of the training's own steps, unscaled and before they are clipped. Costs the
      memory of one more copy of the weights that train.
    - `"weight_change"`: the norm by which its weights have moved in an interval, relative to their
      own. Costs such a copy on the host, and nothing in a step.
    - `"svcca"` or `"cka"`: 1 less the similarity of its outputs for `probe` to those an interval
      before. Costs a pass over `probe` in each interval.

    Args:
        intervals: Int, at least 2, into how many parts the training is divided. Where
            one has but a few steps, the changes between two are mostly noise. Defaults to 10.
        percentile: Float, from 0 to 100, of the changes of the groups that train. Defaults to 50.
        min_trainable: Int, positive, how many groups always train, the head included. Beside the
            head the one that changes most always does, so that 1 and 2 mean the same. Defaults
            to 1.
        warm_up: Int, non-negative: the first so many intervals freeze nothing. The first never
            does, since it only records. Defaults to 0.
        criterion: `"gradient"` (default), `"weight_change"`, `"svcca"`, `"cka"`, or a callable that
            takes a group's outputs for `probe` before and after an interval, two arrays of shape
            `(rows, features)`, and returns a float, 0 for no change. The rows are samples,
            positions, time steps or tokens, at most 4096.
        probe: Inputs as for `predict`, an array or a nest of arrays, for criteria that compare
            outputs: a few hundred samples, and for `"svcca"` at least ten rows for each direction
            that it keeps. Defaults to None.
        reference: `"interval"` (default), to compare outputs with those an interval before, or
            `"pretrained"`, with those before the training.
        tolerance: Float, positive, in units of `monitor`: when that is worse than its best by more,
            at the end of an interval, the groups that froze last unfreeze, and the next interval
            freezes none. Defaults to None, for never.
        monitor: Str, the metric for `tolerance`. Defaults to `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"` (default), by the metric's name.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        keep_frozen: What never trains, as for `GradualUnfreeze`. Defaults to None.
        lora: As for `GradualUnfreeze`.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups, as for `FreezeScheduler`. Defaults to None, the same
            everywhere.
        batch_norm: As for `GradualUnfreeze`.
        cache: As for `GradualUnfreeze`.
        log_details: As for `GradualUnfreeze`.
        verbose: 0 for nothing, 1 (default) to print a line at each transition, in a notebook in a
            `LiveView` that is shown by itself, or 2 for the lines alone.

    Raises:
        TypeError: if `probe` is something else.
        ValueError: if an argument is invalid; at the start of training, if it isn't known how many
            batches an epoch has, or if a group can't be measured by the criterion.

    Example:
        >>> import keras, numpy as np
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in "ab")]
        ...     + [keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> callback = AutoFreeze(backbone="^[ab]$", verbose=0)
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=5, batch_size=2, verbose=0, callbacks=[callback])
        >>> history.history["freeze_depth"]
        [0, 1, 1, 1, 1]

    References:
        - [Liu et al., 2021](https://arxiv.org/abs/2102.01386): AutoFreeze, by the gradient.
        - [Raghu et al., 2017](https://arxiv.org/abs/1706.05806): SVCCA, and freezing by it.
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414): CKA; here without bias, after
          [Nguyen et al., 2021](https://arxiv.org/abs/2010.15327).
    """

    def __init__(
        self,
        *,
        intervals: int = 10,
        percentile: float = 50.0,
        min_trainable: int = 1,
        warm_up: int = 0,
        criterion: Criterion = "gradient",
        probe: Any = None,
        reference: Literal["interval", "pretrained"] = "interval",
        tolerance: float | None = None,
        monitor: str = "val_loss",
        mode: Literal["auto", "min", "max"] = "auto",
        backbone: Backbone | None = None,
        keep_frozen: KeepFrozen | None = None,
        lora: Literal["adapters", "with_base"] = "adapters",
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        log_details: Details = False,
        verbose: int = 1,
    ):
        if not is_int(intervals) or intervals < 2:
            raise ArgumentError("AutoFreeze", "intervals", "be at least 2", value=intervals)
        check_count("AutoFreeze", "min_trainable", min_trainable)
        check_count("AutoFreeze", "warm_up", warm_up, lowest=0)
        if not is_number(percentile) or not 0 <= percentile <= 100:
            raise ArgumentError("AutoFreeze", "percentile", "be from 0 to 100", value=percentile)
        if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
            raise ArgumentError("AutoFreeze", "tolerance", "be positive, or None", value=tolerance)
        better = direction("AutoFreeze", monitor, mode)
        self.intervals = intervals
        self.percentile = percentile
        self.min_trainable = min_trainable
        self.warm_up = warm_up
        self.criterion = criterion
        self.probe = probe
        self.reference = reference
        self.tolerance = tolerance
        self.monitor = monitor
        self.mode = mode
        gauge = self._gauge()
        limit = None if tolerance is None else Tolerance(monitor, better, float(tolerance))
        schedule: Any = Settling(
            intervals, percentile, min_trainable, warm_up, gauge.title, gauge.identity, limit
        )
        super().__init__(
            schedule,
            backbone=backbone,
            keep_frozen=keep_frozen,
            lora=lora,
            groups=groups,
            rates=rates,
            batch_norm=batch_norm,
            cache=cache,
            log_details=log_details,
            verbose=verbose,
        )

    def _planner(self) -> Planner:
        schedule: Any = self.schedule
        return ByDecisions(type(self).__name__, schedule, self.batch_norm)

    def _gauge(self) -> Gauge:
        return gauge_for(type(self).__name__, self.criterion, self.probe, self.reference)
