"""`AutoFreeze`: everything trains at first, and groups freeze from the input up as they settle."""

from __future__ import annotations

from typing import Any, Literal

from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.checks import ArgumentError, check_count, is_int, is_number
from keras_freeze.groups import Backbone, Groups
from keras_freeze.policies import BatchNormMode, KeepFrozen
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import ByDecisions, Planner, Rates, Settling


class AutoFreeze(FreezeScheduler):
    """Freeze layer groups while the model trains, from the input up, as they settle.

    Training is divided into intervals. In each, the gradients of every group that trains are added
    up, and the L1 norm of these sums is compared with that of the interval before: the groups below
    the lowest whose relative change reaches a percentile of all changes are frozen. The head takes
    no part in that and never freezes. What is frozen is computed once instead of in every epoch,
    where the cache can.

    The gradients are those of the training's own steps, before they are clipped; adding them up
    takes the memory of one more copy of the weights that train.

    Args:
        intervals: Int, at least 2, into how many the training is divided. Defaults to 10.
        percentile: Float, from 0 to 100, of the changes of the groups that train. Defaults to 50.
        min_trainable: Int, positive, how many groups always train, the head included. Defaults
            to 1.
        warm_up: Int, non-negative: the first so many intervals freeze nothing. The first never
            does, since it only records. Defaults to 0.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        keep_frozen: What never trains, as for `GradualUnfreeze`. Defaults to None.
        lora: As for `GradualUnfreeze`.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups, as for `FreezeScheduler`. Defaults to None, the same
            everywhere.
        batch_norm: As for `GradualUnfreeze`.
        cache: As for `GradualUnfreeze`.
        log_details: As for `GradualUnfreeze`.
        verbose: 0 or 1, whether to print a line at each transition. Defaults to 1.

    Raises:
        ValueError: if an argument is invalid; at the start of training, if it isn't known how many
            batches an epoch has.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> callback = AutoFreeze(backbone="low", verbose=0)
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=5, batch_size=2, verbose=0, callbacks=[callback])
        >>> history.history["freeze_depth"]
        [0, 0, 0, 0, 0]

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2102.01386): AutoFreeze.
    """

    def __init__(
        self,
        *,
        intervals: int = 10,
        percentile: float = 50.0,
        min_trainable: int = 1,
        warm_up: int = 0,
        backbone: Backbone | None = None,
        keep_frozen: KeepFrozen | None = None,
        lora: Literal["adapters", "with_base"] = "adapters",
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        log_details: bool = False,
        verbose: int = 1,
    ):
        if not is_int(intervals) or intervals < 2:
            raise ArgumentError("AutoFreeze", "intervals", "be at least 2", value=intervals)
        check_count("AutoFreeze", "min_trainable", min_trainable)
        check_count("AutoFreeze", "warm_up", warm_up, lowest=0)
        if not is_number(percentile) or not 0 <= percentile <= 100:
            raise ArgumentError("AutoFreeze", "percentile", "be from 0 to 100", value=percentile)
        self.intervals = intervals
        self.percentile = percentile
        self.min_trainable = min_trainable
        self.warm_up = warm_up
        schedule: Any = Settling(intervals, percentile, min_trainable, warm_up)
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
