"""`find_learning_rate`: train a few steps at rates that rise, and see where the loss falls."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, check_count, first_few, is_int, is_number
from keras_freeze.engine import leaf_optimizers, preserved
from keras_freeze.findings import of_task
from keras_freeze.groups import picture_of
from keras_freeze.hub_tasks import is_task, preprocesses
from keras_freeze.keras_internals.optimizers import rate_of
from keras_freeze.learning_rates.range_test import LearningRateRange, RangeTest, diverges, smoothed
from keras_freeze.model_picture import check_model, own_optimizers
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.reading import as_labels, check_labels, check_loader, check_read_again, is_whole
from keras_freeze.schedules import FreezeSchedule, Phase

_OWNER = "find_learning_rate"
#: Fewer say nothing.
MIN_STEPS = 20
# From this rate on it is odd that a loss still falls.
_LARGE = 1.0

ScheduleLike = FreezeSchedule | Mapping[int, Any] | str | os.PathLike[str]


def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    schedule: FreezeScheduler | ScheduleLike | None = None,
    batch_size: int = 32,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
) -> LearningRateRange:
    """Find the learning rate to compile with, by a range test of each phase of a schedule.

    From the present weights, each phase trains for some steps while the learning rate rises from
    one step to the next by the same factor. Where the loss falls, the rate is large enough; where
    it rises again, it is too large. Groups with rates of their own keep their multiples. Frozen
    layers are computed once, where the prefix cache can.

    Where the loss falls by chance, as it may with labels that say nothing, there is a rate too:
    look at the picture. Training loss is all that is looked at.

    Afterwards the model, its optimizer and all random generators are as they were, to the bit.
    Arrays and a `PyDataset` begin again as if nothing had been read; a `tf.data.Dataset` that
    reshuffles has moved on by the passes that were read.

    Args:
        model: `keras.Model`, compiled with one optimizer whose learning rate is a number.
        x: The inputs as `fit` takes them: arrays, or `tf.data.Dataset`, `PyDataset` or torch
            `DataLoader`; for a KerasHub task, images or texts before its preprocessor.
        y: The targets, for arrays. Defaults to None.
        sample_weight: Weights of the samples, for arrays. Defaults to None.
        schedule: What is frozen in each phase: a callback such as `GradualUnfreeze()`, which says
            the rates of groups too, or what `FreezeScheduler` takes. When phases begin does not
            matter, nor do curves of the rate. Defaults to None: one test, with the present flags.
        batch_size: Int, for arrays. Defaults to 32.
        lowest: Float, the rate of the first step. Defaults to 1e-7.
        highest: Float, the rate of the last step. Defaults to 10.
        steps: Int, at least 20, how many steps each phase trains for, fewer if the loss diverges
            before. Defaults to 100.

    Returns:
        `LearningRateRange`: its `learning_rate` is the number, its `tests` hold what was measured,
        and `plots.learning_rates` draws it.

    Raises:
        TypeError: if `x` is a generator, which could not be read again.
        ValueError: if the model isn't compiled, if its optimizer has no single number as its rate,
            or if the schedule decides while it trains, as `GradualUnfreeze("auto")` does.

    Example:
        >>> import numpy as np
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model.compile(keras.optimizers.SGD(0.01), "mse")
        >>> found = find_learning_rate(model, np.ones((8, 4)), np.ones((8, 2)), lowest=1e-4)
        >>> 1e-3 < found.learning_rate < 1
        True

    References:
        - [Smith, 2015](https://arxiv.org/abs/1506.01186): the range test.
        - [fastai](https://docs.fast.ai/callback.schedule.html): the suggestions, the valley and
          the steepest slope.
    """
    check_model(_OWNER, model)
    check_count(_OWNER, "batch_size", batch_size)
    if not is_int(steps) or steps < MIN_STEPS:
        rule = f"be an int of at least {MIN_STEPS}"
        raise ArgumentError(_OWNER, "steps", rule, value=steps)
    rates = _rates(lowest, highest, steps)
    _check_optimizer(model)
    data = _data(model, x, y, sample_weight, batch_size)
    for finding in of_task(model, None if preprocesses(model) else as_labels(y)):
        if finding.name == "labels":
            warnings.warn(f"{_OWNER}: {finding.what}. Try: {finding.cure}", stacklevel=2)
    tests = []
    for number, callback in enumerate(_callbacks(model, schedule)):
        sweep = _Sweep(rates)
        with preserved(model):
            # Every epoch has a step at least, so that these are enough.
            model.fit(**data, epochs=steps, verbose=0, callbacks=[callback, sweep])
            tests.append(sweep.result(number, callback))
    falling = [str(test.phase) for test in tests if test.is_still_falling]
    if falling:
        advice = "Pass a larger highest=."
        if highest >= _LARGE:
            advice = (
                "Few models train at such a rate: look at labels and data (kf.check), or pass a "
                "larger highest=."
            )
        warnings.warn(
            f"{_OWNER}: the loss of phase {first_few(falling)} still falls at the highest rate, "
            f"{highest:g}. {advice}",
            stacklevel=2,
        )
    return LearningRateRange(model.name, tuple(tests))


def _rates(lowest: Any, highest: Any, steps: int) -> list[float]:
    for argument, value in (("lowest", lowest), ("highest", highest)):
        if not is_number(value) or not 0 < value < math.inf:
            raise ArgumentError(_OWNER, argument, "be a positive number", value=value)
    if lowest >= highest:
        raise ArgumentError(_OWNER, "lowest", f"be below highest={highest!r}", value=lowest)
    factor = (highest / lowest) ** (1 / (steps - 1))
    return [lowest * factor**step for step in range(steps)]


def _check_optimizer(model: keras.Model) -> None:
    rule = "be compiled with one optimizer whose learning rate is a number"
    advice = "Compile it with keras.optimizers.Adam(1e-3), say; the schedule goes to `fit` later."
    received = f"model {model.name!r}"
    if not getattr(model, "compiled", False):
        raise ArgumentError(_OWNER, "model", rule, received=received, advice=advice)
    leaves = leaf_optimizers(model.optimizer)
    if len(leaves) > 1 or own_optimizers(model):
        received += " with several"
    elif not isinstance(rate_of(leaves[0]), keras.Variable):
        received += f", whose rate is a {type(rate_of(leaves[0])).__name__}"
    else:
        return
    raise ArgumentError(_OWNER, "model", rule, received=received, advice=advice)


def _data(
    model: keras.Model, x: Any, y: Any, sample_weight: Any, batch_size: int
) -> dict[str, Any]:
    """Return the data as arguments of `fit`, such that reading them changes none of them."""
    check_read_again(_OWNER, x)
    check_loader(_OWNER, model, x)
    if isinstance(x, keras.utils.PyDataset):
        return {"x": _Reread(x), "shuffle": False}
    if any(getattr(leaf, "shape", ())[:1] == (0,) for leaf in keras.tree.flatten(x)):
        raise ArgumentError(_OWNER, "x", "have samples", value=x)
    check_labels(_OWNER, model, x, y)
    data = {"x": x, "y": y, "sample_weight": sample_weight}
    if not is_whole(x):
        data["batch_size"] = batch_size
    if is_whole(x) or is_task(model):  # `fit` of a task makes a dataset, and warns of shuffle
        data["shuffle"] = False
    return data


class _Reread(keras.utils.PyDataset):
    """The batches of a `PyDataset` in their order, without telling it of epochs."""

    def __init__(self, own: keras.utils.PyDataset) -> None:
        super().__init__()
        self._own = own

    @property
    def num_batches(self) -> int | None:
        """Int, how many batches there are; None for no end."""
        return self._own.num_batches

    def __getitem__(self, index: int) -> Any:
        return self._own[index]


def _callbacks(
    model: keras.Model, schedule: FreezeScheduler | ScheduleLike | None
) -> Sequence[keras.callbacks.Callback]:
    """Return what freezes in each phase; nothing but a cache where flags are to stay."""
    if schedule is None and not model.trainable_variables:
        raise ArgumentError(
            _OWNER,
            "model",
            "have something that trains",
            received=f"model {model.name!r}, of which nothing does",
            advice="Unfreeze a part: kf.unfreeze(model, groups=['head']), or pass schedule=.",
        )
    if schedule is None:
        return [PrefixCache(auto=True, verbose=0)]
    owner = schedule if isinstance(schedule, FreezeScheduler) else FreezeScheduler(schedule)
    names = picture_of(model, owner.groups, owner.backbone).group_names
    # By a calendar every group can have an epoch of its own in so many.
    planned = owner.plan(model, owner.total_epochs or len(names), steps_per_epoch=1)
    callbacks = []
    for phase in planned.phases:
        rates = "default" if phase.rates == "auto" else phase.rates
        policy = phase.policy(owner.groups)
        callbacks.append(
            FreezeScheduler(
                FreezeSchedule([Phase(policy, rates=rates, batch_norm=phase.batch_norm)]),
                backbone=owner.backbone,
                keep_frozen=owner.keep_frozen,
                lora=owner.lora,
                groups=owner.groups,
                cache=owner.cache,
                verbose=0,
            )
        )
    return callbacks


class _Sweep(keras.callbacks.Callback):
    """Trains each step at the next rate, and ends the fit after the last or where it diverges."""

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self._rates = rates
        self._losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Set the rate; metrics begin anew, so that the loss is that of the step alone."""
        model = self.model
        model.optimizer.learning_rate = self._rates[len(self._losses)]
        model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the loss."""
        self._losses.append(float((logs or {})["loss"]))
        is_over = len(self._losses) == len(self._rates)
        if is_over or diverges(smoothed(self._losses)):
            self.model.stop_training = True

    def result(self, number: int, callback: keras.callbacks.Callback) -> RangeTest:
        """Return what was measured, while the model is as the phase has it."""
        is_planned = isinstance(callback, FreezeScheduler)
        groups, backbone = (callback.groups, callback.backbone) if is_planned else (None, None)
        picture = picture_of(self.model, groups, backbone)
        training = [
            group.name for group in picture.groups if any(v.trainable for v in group.variables)
        ]
        rates = tuple(self._rates[: len(self._losses)])
        return RangeTest(number, tuple(reversed(training)), rates, tuple(self._losses))
