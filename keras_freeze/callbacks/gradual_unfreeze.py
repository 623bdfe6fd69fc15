"""`GradualUnfreeze`: the head trains first, then group after group thaws from the top."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze.callbacks import resume_point
from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.engine import optimizer_state
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.model_picture import is_batch_norm, weights_of
from keras_freeze.policies.flags import BatchNormMode
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.schedules import (
    FreezeSchedule,
    FromTheHead,
    Rates,
    TriggerLike,
)


class GradualUnfreeze(FreezeScheduler):
    """Fine-tune from the head down: one layer group after the other thaws.

    Everything but the head is frozen when training begins; then groups thaw from the top,
    each at a lower learning rate than the one above. Nothing is lost when a group thaws: the
    optimizer, its state for what trained before, the metrics and the `compile` settings stay,
    and the new group's updates begin as in a new optimizer.

    A fit that starts at `initial_epoch > 0` goes on where training was: it never freezes again
    what had thawed. A fit from epoch 0 starts over.

    Args:
        schedule: When groups thaw. `"even"` (default) spreads them evenly over the epochs; an
            int thaws one more group every so many epochs; a mapping from epoch (0-based) to a
            group's name or names, such as `{0: "head", 4: "block5", 8: ["block4", "block3"]}`,
            thaws these then, and never those that it does not name. A trigger, such as
            `schedules.OnPlateau("val_loss")`, or a callable `(logs) -> bool`, thaws one more
            group each time it fires, and ends the fit when it fires with all thawed.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups as multiples of the compiled one: a mapping from
            group to multiplier (1 where missing), a factor between neighbouring groups, or
            None for the same rate everywhere. `"default"` is a factor of 2.6, ULMFiT's.
        batch_norm: What `BatchNormalization` layers of the pretrained part do: `"frozen"`
            (default) never train, `"follow"` thaw with their group, `"statistics"` thaw but
            for their moving statistics, `"train"` always train.
        cache: Whether to compute what is frozen once, not in every epoch: `"auto"` (default)
            where that pays, True wherever it can be done, False, or a `PrefixCache` with
            arguments of your own. The results are the same.
        total_epochs: Int, the epochs of the whole training when it is split over several fits.
            Defaults to those of the fit.
        log_details: Bool. Add `phase`, `frozen_groups` (a count) and `learning_rate/<group>`
            to the logs, besides `trainable_params` and `non_trainable_params`. Defaults to
            False, since Keras prints every log.
        verbose: 0 or 1, whether to print a line at each transition. Defaults to 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid; at the start of training, if the schedule names
            a group that the model has not.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> callback = GradualUnfreeze(verbose=0)
        >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[callback])
        >>> history.history["trainable_params"]
        [4, 4, 19, 19]

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146): gradual unfreezing and
          discriminative learning rates.
    """

    def __init__(
        self,
        schedule: str | Mapping[int, str | Sequence[str]] | TriggerLike = "even",
        *,
        groups: Groups | None = None,
        rates: Rates = "default",
        batch_norm: BatchNormMode = "frozen",
        cache: bool | str | PrefixCache = "auto",
        total_epochs: int | None = None,
        log_details: bool = False,
        verbose: int = 1,
    ):
        super().__init__(
            schedule,  # type: ignore[arg-type]  # read by `_plan` below
            groups=groups,
            rates=rates,
            batch_norm=batch_norm,
            cache=cache,
            total_epochs=total_epochs,
            log_details=log_details,
            verbose=verbose,
        )

    def _check_schedule(self) -> None:
        self._planner()

    def _planner(self) -> FromTheHead:
        schedule: Any = self.schedule
        return FromTheHead("GradualUnfreeze", schedule, self.batch_norm)

    def _plan(self, names: Sequence[str], epochs: int) -> FreezeSchedule:
        return self._planner().plan(names, epochs)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make the plan for this fit, and say where it differs from one group at a time."""
        super().on_train_begin(logs)
        total = len(layer_groups(self.model, self.groups))
        count = total - self._groups_that_stay(self.model)
        epochs = self.total_epochs or self.params["epochs"]
        if total == 1:
            warnings.warn(
                f"GradualUnfreeze finds a single layer group in model {self.model.name!r}, so "
                "there is nothing to thaw. Pass groups= to divide it.",
                stacklevel=2,
            )
        elif isinstance(self.schedule, str) and epochs < count and self.verbose:
            print(
                f"GradualUnfreeze: {epochs} epochs for {count} layer groups, so several "
                "groups thaw at once."
            )

    def _groups_that_stay(self, model: keras.Model) -> int:
        """Return how many groups, from the input on, are never to thaw."""
        return 0

    def _groups_to_keep(self, groups: Sequence[LayerGroup], epoch: int) -> frozenset[str]:
        known = resume_point.is_known(self.model)
        if epoch == 0:
            if known and self.verbose:
                print(
                    "GradualUnfreeze: this fit starts over from the head. To go on where the "
                    "last one ended, pass initial_epoch= to fit."
                )
            return frozenset()
        training = frozenset(group.name for group in groups if _trains(group))
        frozen_before = len(training) < len(groups)
        trained_before = optimizer_state.iterations(self.model.optimizer) > 0
        # The flags say what had thawed, unless nothing has trained this model yet.
        return training if known or frozen_before or trained_before else frozenset()


def _trains(group: LayerGroup) -> bool:
    """Tell whether a group trains, apart from its `BatchNormalization`."""
    weights = [weight for layer in group.layers for weight in weights_of(layer)]
    return any(w.variable.trainable for w in weights if not is_batch_norm(w.layer))
