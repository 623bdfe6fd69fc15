"""`GradualUnfreeze`: the head trains first, then group after group unfreezes from the top."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keras_freeze.callbacks.fit_planner import nothing_pretrained
from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.callbacks.group_logs import Details
from keras_freeze.groups import Backbone, Groups
from keras_freeze.policies import BatchNormMode, KeepFrozen
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import Auto, FromTheHead, Planner, Rates, TriggerLike


class GradualUnfreeze(FreezeScheduler):
    """Fine-tune from the head down: one layer group after the other unfreezes.

    Everything but the head is frozen when training begins; then groups unfreeze from the top,
    each at a lower learning rate than the one above. Nothing is lost when a group unfreezes: the
    optimizer, its state of variables that remain trainable, the metrics and the `compile`
    settings stay, and the new group's updates begin as in a new optimizer.

    A model that has no pretrained weights, as the values of its biases and `BatchNormalization`
    layers show, would learn nothing while it waits frozen: everything in it trains from the first
    step at the compiled rate, with a warning, unless `backbone`, `groups`, `rates` or the groups of
    each epoch are given.

    A fit that starts at `initial_epoch > 0` continues where training was: it never freezes again
    what had been unfrozen. A fit from epoch 0 starts over.

    Args:
        schedule: When groups unfreeze. `"even"` (default) spreads them evenly over the epochs;
            an int unfreezes one more group every so many epochs; a mapping from epoch (0-based)
            to a group's name or names, such as
            `{0: "head", 4: "block5", 8: ["block4", "block3"]}`, unfreezes these then, and never
            those that it does not name. A regular expression for whole names stands for several
            groups, `"rest"` for all that are not named. A trigger, such as
            `schedules.OnPlateau("val_loss")`, or a callable `(logs) -> bool`, unfreezes one more
            group each time it fires, and ends the fit when it fires with all unfrozen. `"auto"`, or
            a `schedules.Auto` with arguments of your own, finds out how many groups to unfreeze,
            by validation data, and ends with the model trained so.
        backbone: What is pretrained, as for `layer_groups`: a model or layer that the model was
            built from, a name, a pattern, or several. Everything else is new: it is the last group,
            trains from the first step, and its `BatchNormalization` layers learn. Kept by name.
            Defaults to None, to be found; the first line of a fit says what was.
        keep_frozen: What never unfreezes, whatever the schedule says: names of groups or layers,
            regular expressions that are searched in names of layers and paths of variables, or a
            freeze policy or callable. Defaults to None. (A `Distiller`'s teacher never does.)
        lora: `"adapters"` (default): what `enable_lora` froze stays frozen. `"with_base"`: it
            unfreezes with its group. Only float base weights can.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups as multiples of the compiled one: a mapping from
            group to multiplier (where missing, that of the nearest named group above), a factor
            between neighbouring groups, or None for the same rate everywhere. `"default"` is a
            factor of 2.6, ULMFiT's, for up to five groups; for more it is less, so that the lowest
            group trains at a hundredth of the head's rate. `"auto"` begins with the same; after
            each epoch, a group's multiplier is the norm of its gradients relative to that of its
            weights, over the largest of these (Auto-RGN).
        batch_norm: What `BatchNormalization` layers of the pretrained part do: `"frozen"`
            (default) never train, `"follow"` unfreeze with their group, `"statistics"` unfreeze
            but for their moving statistics, `"train"` always train.
        cache: Whether to compute what is frozen once, not in every epoch: `"auto"` (default)
            where that pays, True wherever it can be done, False, or a `PrefixCache` with
            arguments of your own. The results are the same.
        total_epochs: Int, the epochs of the whole training when it is split over several fits.
            Defaults to those of the fit.
        log_details: Bool, or some of `"phase"`, `"gradients"`, `"weights"` and `"weight_change"` in
            a list: what the logs have besides `trainable_params` and `non_trainable_params`. True
            is `["phase"]`: `phase`, `frozen_groups` (a count) and `learning_rate/<group>`.
            `"gradients"` adds `gradient_norm/<group>`, the root of the mean square over the steps
            of the epoch, and `update_ratio/<group>`, how far its weights have moved in the epoch
            relative to their norm, both NaN for what is frozen; gradients that vanish or explode
            are warned of. `"weights"` adds `weight_norm/<group>` and `effective_rank/<group>`, the
            mean over its matrices (Roy and Vetterli, 2007). `"weight_change"` adds
            `weight_change/<group>`, how far all weights of a group together, LoRA's included and
            moving statistics not, have moved since the training began: the norm of the difference
            over that of the first values. These are a copy of the weights on the host, kept as long
            as the model, and in each backup; a fit from epoch 0 takes new ones. Defaults to False,
            since Keras prints every log.
        verbose: 0 for nothing, 1 (default) to print a line at each transition, in a notebook in a
            `LiveView` that is shown by itself, or 2 for the lines alone.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid; at the start of training, if the schedule names
            a group that the model does not have.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> callback = GradualUnfreeze(backbone="low", verbose=0)
        >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[callback])
        >>> history.history["trainable_params"]
        [4, 4, 19, 19]

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146): gradual unfreezing and
          discriminative learning rates.
        - [Lee et al., 2022](https://arxiv.org/abs/2210.11466): Auto-RGN, `rates="auto"`.
    """

    def __init__(
        self,
        schedule: str | Mapping[int, str | Sequence[str]] | TriggerLike | Auto = "even",
        *,
        backbone: Backbone | None = None,
        keep_frozen: KeepFrozen | None = None,
        lora: Literal["adapters", "with_base"] = "adapters",
        groups: Groups | None = None,
        rates: Rates = "default",
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        total_epochs: int | None = None,
        log_details: Details = False,
        verbose: int = 1,
    ):
        super().__init__(
            schedule,  # type: ignore[arg-type]  # read by its planner
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
        is_told = self.backbone is not None or self.groups is not None or self.rates != "default"
        return FromTheHead(type(self).__name__, schedule, self.batch_norm, not is_told)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and warn where it has nothing to do."""
        super().on_train_begin(logs)
        if self._fit is None:
            return
        plan = self._fit.plan
        if len(plan.picture.groups) == 1:
            warnings.warn(
                f"GradualUnfreeze finds a single layer group in model {self.model.name!r}, so "
                "there is nothing to unfreeze. Pass groups= to divide it.",
                stacklevel=2,
            )
        elif self.planner.finds_nothing_pretrained(plan.picture):
            warnings.warn(nothing_pretrained("GradualUnfreeze", self.model), stacklevel=2)
