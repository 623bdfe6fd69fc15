"""`ProgressiveFreeze`: everything trains at first, and groups freeze by a calendar (FreezeOut)."""

from __future__ import annotations

from typing import Any, Literal

from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.callbacks.group_logs import Details
from keras_freeze.groups import Backbone, Groups
from keras_freeze.policies import BatchNormMode, KeepFrozen
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import FreezeOut, Planner, Rates


class ProgressiveFreeze(FreezeScheduler):
    """Let the learning rate of each layer group fall to zero, then freeze it, from the input up.

    Everything trains at first. With `L` groups above the lowest, group `i` from the input on trains
    for the part `s(first + (1 - first) * i / L)` of the training, where `s(u)` is `u**3` by
    default; within it, its rate falls by half a cosine. The head trains to the end. What is frozen
    is computed once instead of in every epoch, where the cache can.

    It saves time at the end of a training, and no accuracy is gained: its paper reports 20 % less
    time at 3 % more error for DenseNet, and no gain for VGG.

    Args:
        first: Float above 0, at most 1: the part for the lowest group, before `shape` is applied.
            Defaults to 0.8.
        shape: `"cubic"` (default) or `"linear"`.
        scales_rates: Bool, whether each group's rate is divided by its part of the training, so
            that its rates add up to about as much as those of the head. Defaults to True.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found.
        keep_frozen: What never trains, as for `GradualUnfreeze`. Defaults to None.
        lora: As for `GradualUnfreeze`.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups, as for `FreezeScheduler`, to begin with. Defaults to
            None, the same everywhere.
        batch_norm: As for `GradualUnfreeze`.
        cache: As for `GradualUnfreeze`.
        total_epochs: As for `GradualUnfreeze`.
        log_details: As for `GradualUnfreeze`.
        verbose: 0 for nothing, 1 (default) to print a line at each transition, in a notebook in a
            `LiveView` that is shown by itself, or 2 for the lines alone.

    Raises:
        ValueError: if an argument is invalid; at the start of training, if it isn't known how many
            batches an epoch has.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> callback = ProgressiveFreeze(backbone="low", verbose=0)
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[callback])
        >>> history.history["trainable_params"]
        [19, 19, 4, 4]

    Reference:
        - [Brock et al., 2017](https://arxiv.org/abs/1706.04983): FreezeOut.
    """

    def __init__(
        self,
        *,
        first: float = 0.8,
        shape: Literal["cubic", "linear"] = "cubic",
        scales_rates: bool = True,
        backbone: Backbone | None = None,
        keep_frozen: KeepFrozen | None = None,
        lora: Literal["adapters", "with_base"] = "adapters",
        groups: Groups | None = None,
        rates: Rates = None,
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        total_epochs: int | None = None,
        log_details: Details = False,
        verbose: int = 1,
    ):
        self.first = first
        self.shape = shape
        self.scales_rates = scales_rates
        schedule: Any = FreezeOut(
            type(self).__name__, first, shape, scales_rates, rates=rates, batch_norm=batch_norm
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
            total_epochs=total_epochs,
            log_details=log_details,
            verbose=verbose,
        )

    def _planner(self) -> Planner:
        schedule: Any = self.schedule
        return schedule
