"""Give each variable its own learning-rate multiplier and step count in a stock optimizer.

Variables that share both form a *cohort*. An optimizer whose variables are not all in the
plain cohort (multiplier 1, trained since step 0) applies its own update rule once per cohort, with
the learning rate multiplied and the iteration count shifted to the cohort's first step. The *active
curve*, the learning-rate curve of a phase, multiplies the rate of all cohorts alike. So a variable
that joins at step 5,000 is treated as by a new optimizer at step 0, whatever the optimizer's bias
correction, warm-up or averaging, and the optimizer keeps its class. One that joins in the middle of
a gradient accumulation waits for the next, instead of being updated by half of one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_freeze.keras_internals import optimizers


class Curve(Protocol):
    """A learning-rate curve, as `keras_freeze.schedules` has them."""

    def factor(self, done: Any, steps: int) -> Any:
        """Return by what the rate is multiplied after `done` of `steps` batches."""


@dataclasses.dataclass(frozen=True, order=True)
class Cohort:
    """Variables that train alike.

    Attributes:
        start: Int, in batches. The optimizer's iteration count when they joined, or when the
            gradient accumulation that ran then is over.
        multiplier: Float. What their learning rate is multiplied by.
        life: Float, positive. The part of an active curve's length after which it is at its end
            for them.
    """

    start: int = 0
    multiplier: float = 1.0
    life: float = 1.0


@dataclasses.dataclass(frozen=True)
class ActiveCurve:
    """A learning-rate curve that runs from a certain batch on.

    Attributes:
        curve: The curve.
        steps: Int, its length in batches.
        start: Int, in batches. The optimizer's iteration count at its beginning.
        lives: For `new_rules`: `Cohort.life` by variable id, 1 where missing.
    """

    curve: Curve
    steps: int
    start: int = 0
    lives: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an optimizer does differently from a stock one.

    Attributes:
        cohorts: `Cohort` by variable id, without the plain ones.
        curve: The active learning-rate curve, if there is one.
        records: The extra slots that it has: of `optimizers.EXTRA_SLOTS`.
    """

    cohorts: Mapping[int, Cohort] = dataclasses.field(default_factory=dict)
    curve: ActiveCurve | None = None
    records: frozenset[str] = frozenset()


_PLAIN = Cohort()


def rules_of(optimizer: Any) -> Rules:
    """Return the rules of a leaf optimizer, empty ones for a stock one."""
    update = optimizers.replaced_update(optimizer)
    return update.rules if isinstance(update, _CohortUpdate) else Rules()


def new_rules(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    joined: Sequence[keras.Variable],
    multipliers: Mapping[int, float] | None,
    curve: ActiveCurve | None,
    starts: Mapping[int, int] | None = None,
    *,
    records: Collection[str] = (),
) -> Rules:
    """Return the rules of one optimizer after a transition.

    Args:
        optimizer: A leaf optimizer, which updates variables itself.
        variables: All variables that it trains.
        joined: Those of them that are trainable from now on, with new slots.
        multipliers: Learning-rate multiplier by variable id, 1 where missing; None keeps the
            current ones, and the active curve.
        curve: The learning-rate curve; its start is taken as batches from now.
        starts: Iteration count by variable id at which it began to train, where that is known
            better than by the transitions that this optimizer object has been through.
        records: Names of the extra slots; kept too where `multipliers` is None.
    """
    now, before = optimizers.iterations(optimizer), rules_of(optimizer)
    new_ids, after = {id(v) for v in joined}, {}
    lives = {} if curve is None else curve.lives
    for variable in variables:
        old = before.cohorts.get(id(variable), _PLAIN)
        rate = old.multiplier if multipliers is None else multipliers.get(id(variable), 1.0)
        start = now if id(variable) in new_ids else old.start
        start = _whole_window(optimizer, (starts or {}).get(id(variable), start))
        life = old.life if multipliers is None else lives.get(id(variable), 1.0)
        cohort = Cohort(start, rate, life)
        if cohort != _PLAIN:
            after[id(variable)] = cohort
    if multipliers is None:
        return Rules(after, before.curve, before.records)
    if curve is not None:
        curve = dataclasses.replace(curve, start=now + curve.start, lives={})
    return Rules(after, curve, frozenset(records))


def _whole_window(optimizer: Any, start: int) -> int:
    """Return the first iteration from a given one at which a gradient accumulation begins."""
    window = optimizer.gradient_accumulation_steps or 1
    return -(-start // window) * window


def set_rules(optimizer: Any, variables: Sequence[keras.Variable], rules: Rules) -> None:
    """Make one optimizer follow rules for the variables that it trains."""
    optimizers.restore_update_methods(optimizer)
    optimizers.add_extra_slots(optimizer, rules.records)
    if rules.cohorts or rules.curve or rules.records:
        by_key = {
            optimizers.key_of(optimizer, v): rules.cohorts[id(v)]
            for v in variables
            if id(v) in rules.cohorts
        }
        update, decay = optimizers.update_methods(optimizer)
        optimizers.replace_update_methods(
            optimizer,
            _CohortUpdate(optimizer, rules, by_key, update),
            _CohortDecay(optimizer, rules, by_key, decay),
        )


class _ByCohort:
    """A method of an optimizer, to be called once per cohort instead.

    Args:
        optimizer: The leaf optimizer.
        rules: Its `Rules`.
        cohorts: `Cohort` by the key that the optimizer knows a variable by.
        own: The optimizer's own method.
    """

    def __init__(
        self, optimizer: Any, rules: Rules, cohorts: Mapping[Any, Cohort], own: Callable[..., Any]
    ) -> None:
        self.rules = rules
        self.optimizer = optimizer
        self.cohorts = cohorts
        self.own = own
        self.clock = optimizers.iterations_of(optimizer)
        now = optimizers.iterations(optimizer)
        self.waiting = {cohort for cohort in cohorts.values() if cohort.start > now}

    def unless_waiting(
        self, cohort: Cohort, variables: Sequence[Any], act: Callable[[], None]
    ) -> None:
        """Change variables of a cohort, but not before its first gradient accumulation begins."""
        if cohort not in self.waiting:
            act()
        elif keras.backend.backend() != "jax":
            ops.cond(self.clock >= cohort.start, act, lambda: None)
        else:  # where a branch can't change a variable: it is changed, and changed back
            is_ready = self.clock >= cohort.start
            changing = [*variables, *optimizers.slots_of_variables(self.optimizer, variables)]
            before = [variable.value for variable in changing]
            act()
            for variable, value in zip(changing, before, strict=True):
                variable.assign(ops.where(is_ready, variable.value, value))

    def curve_factor(self, cohort: Cohort) -> Any:
        active = self.rules.curve
        if active is None:
            return 1.0
        done = ops.cast(self.clock - active.start, "float32")
        return active.curve.factor(done if cohort.life == 1.0 else done / cohort.life, active.steps)

    def dial(self, variable: Any) -> Any:
        """Return what a variable's rate is multiplied by besides; that of all in its cohort."""
        dials = optimizers.extra_slots(self.optimizer).get(optimizers.DIALS)
        return 1.0 if dials is None else dials[optimizers.index_of(self.optimizer, variable)]

    def split(self, members: list[tuple[Any, Any]]) -> dict[Cohort, list[tuple[Any, Any]]]:
        split: dict[Cohort, list[tuple[Any, Any]]] = {}
        for gradient, variable in members:
            cohort = self.cohorts.get(optimizers.key_of(self.optimizer, variable), _PLAIN)
            split.setdefault(cohort, []).append((gradient, variable))
        return dict(sorted(split.items()))


class _CohortUpdate(_ByCohort):
    """The update step, applied once per cohort."""

    def __call__(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        is_nadam = isinstance(self.optimizer, keras.optimizers.Nadam)
        for cohort, members in self.split(list(zip(grads, variables, strict=True))).items():
            steps = self.clock - cohort.start if cohort.start else self.clock
            factor = self.curve_factor(cohort)
            rate = _scaled(_scaled(learning_rate, cohort.multiplier), factor)
            rate = _scaled(rate, self.dial(members[0][1]))
            update = functools.partial(self._update, members, steps, rate, is_nadam)
            self.unless_waiting(cohort, [v for _, v in members], update)
        if is_nadam:
            _set_nadam_product(self.optimizer, self.clock + 1)  # saved is the whole run's

    def _update(
        self, members: list[tuple[Any, Any]], steps: Any, rate: Any, is_nadam: bool
    ) -> None:
        with optimizers.counting(self.optimizer, steps):
            if is_nadam:
                _set_nadam_product(self.optimizer, steps)
            self.own([g for g, _ in members], [v for _, v in members], rate)


class _CohortDecay(_ByCohort):
    """Weight decay, which reads the learning rate from the optimizer, not from an argument."""

    def __call__(self, variables: Any) -> None:
        base = optimizers.rate_of(self.optimizer)
        if isinstance(base, _Multiplied):  # by another replica, which waits for this one
            base = base.base
        decayed = [(None, v) for v in variables if optimizers.has_weight_decay(self.optimizer, v)]
        for cohort, members in self.split(decayed).items():
            own = [v for _, v in members]
            factor = _scaled(self.curve_factor(cohort), self.dial(own[0]))
            rate = _Multiplied(self.optimizer, base, cohort.multiplier, factor)
            decay = functools.partial(self._decay, own, rate, base)
            self.unless_waiting(cohort, own, decay)

    def _decay(self, variables: list[Any], rate: Any, base: Any) -> None:
        with optimizers.at_rate(self.optimizer, rate, base):
            self.own(variables)


class _Multiplied:
    """A learning rate times two factors, evaluated where the optimizer reads it."""

    def __init__(self, optimizer: Any, base: Any, multiplier: float, factor: Any):
        self.base = base
        self._optimizer = optimizer
        self._multiplier = multiplier
        self._factor = factor

    def __call__(self) -> Any:
        rate = self.base
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(optimizers.iterations_of(self._optimizer))
        elif callable(rate) and not isinstance(rate, keras.Variable):
            rate = rate()
        return _scaled(_scaled(rate, self._multiplier), self._factor)


def _scaled(rate: Any, factor: Any) -> Any:
    if isinstance(factor, float):
        return rate if factor == 1.0 else ops.multiply(rate, factor)
    rate = ops.convert_to_tensor(rate)
    return ops.multiply(rate, ops.cast(factor, rate.dtype))


# The decay of Nadam's momentum schedule after so many steps.
_NADAM_DECAYS = np.concatenate([[1.0], np.cumprod(1 - 0.5 * np.power(0.96, np.arange(1, 512)))])


def _set_nadam_product(optimizer: Any, steps_done: Any) -> None:
    """Set Nadam's running product to its value after so many batches.

    The product of the momentum schedule is the one piece of state that an optimizer of Keras
    keeps for all variables together, so it can't be right for two cohorts at once.
    """
    product = optimizers.nadam_product(optimizer)
    steps_done = ops.floor_divide(steps_done, optimizer.gradient_accumulation_steps or 1)
    index = ops.minimum(ops.cast(steps_done, "int32"), len(_NADAM_DECAYS) - 1)
    decay = ops.take(ops.convert_to_tensor(_NADAM_DECAYS, dtype=product.dtype), index)
    exponent = ops.cast(steps_done, product.dtype)
    product.assign(ops.power(ops.cast(optimizer.beta_1, product.dtype), exponent) * decay)
