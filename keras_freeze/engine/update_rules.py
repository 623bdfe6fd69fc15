"""Give each variable its own learning-rate multiplier and step count in a stock optimizer.

Variables that share both form a *cohort*. An optimizer whose variables are not all in the
plain cohort (multiplier 1, trained since step 0) applies its own update rule once a cohort,
with the learning rate multiplied and the iteration count shifted to the cohort's first step.
A *pace*, the learning-rate curve of a phase, multiplies the rate of all cohorts alike.
So a variable that joins at step 5,000 is treated as by a new optimizer at step 0, whatever
the optimizer's bias correction, warm-up or averaging, and the optimizer keeps its class.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_freeze.engine import optimizer_state


class Curve(Protocol):
    """A learning-rate factor over the batches of a phase."""

    def factor(self, step: Any, steps: int) -> Any:
        """Return the factor for a batch, a scalar tensor."""


@dataclasses.dataclass(frozen=True, order=True)
class Cohort:
    """Variables that train alike.

    Attributes:
        start: Int, in batches. The optimizer's iteration count when they joined.
        multiplier: Float. What their learning rate is multiplied by.
    """

    start: int = 0
    multiplier: float = 1.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """A learning-rate curve that runs from a certain batch on.

    Attributes:
        curve: The curve.
        steps: Int, its length in batches.
        start: Int, in batches. The optimizer's iteration count at its beginning.
    """

    curve: Curve
    steps: int
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an optimizer does differently from a stock one.

    Attributes:
        cohorts: `Cohort` by variable id, without the plain ones.
        pace: The learning-rate curve, if there is one.
    """

    cohorts: Mapping[int, Cohort] = dataclasses.field(default_factory=dict)
    pace: Pace | None = None


_PLAIN = Cohort()
_rules: weakref.WeakKeyDictionary[Any, Rules] = weakref.WeakKeyDictionary()


def rules_of(optimizer: Any) -> Rules:
    """Return the rules of a leaf optimizer, empty ones for a stock one."""
    return _rules.get(optimizer, Rules())


def new_rules(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    joined: Sequence[keras.Variable],
    multipliers: Mapping[int, float] | None,
    pace: Pace | None,
    starts: Mapping[int, int] | None = None,
) -> Rules:
    """Return the rules of one optimizer after a transition.

    Args:
        optimizer: A leaf optimizer, which updates variables itself.
        variables: All variables that it trains.
        joined: Those of them that train from now on, with new slots.
        multipliers: Learning-rate multiplier by variable id, 1 where missing; None keeps the
            present ones, and the present pace.
        pace: The learning-rate curve; its start is taken as batches from now.
        starts: Iteration count by variable id at which it began to train, where that is known
            better than by the transitions that this optimizer object has been through.
    """
    now, before = optimizer_state.iterations(optimizer), rules_of(optimizer)
    new_ids, after = {id(v) for v in joined}, {}
    for variable in variables:
        old = before.cohorts.get(id(variable), _PLAIN)
        rate = old.multiplier if multipliers is None else multipliers.get(id(variable), 1.0)
        start = now if id(variable) in new_ids else old.start
        cohort = Cohort((starts or {}).get(id(variable), start), rate)
        if cohort != _PLAIN:
            after[id(variable)] = cohort
    if multipliers is None:
        return Rules(after, before.pace)
    return Rules(after, pace and dataclasses.replace(pace, start=now + pace.start))


def set_rules(optimizer: Any, variables: Sequence[keras.Variable], rules: Rules) -> None:
    """Make one optimizer follow rules for the variables that it trains."""
    _rules[optimizer] = rules
    _uninstall(optimizer)
    if rules.cohorts or rules.pace:
        by_key = {
            optimizer._var_key(v): rules.cohorts[id(v)] for v in variables if id(v) in rules.cohorts
        }
        _install(optimizer, by_key, rules.pace)


def _uninstall(optimizer: Any) -> None:
    for name in ("_backend_update_step", "_apply_weight_decay"):
        vars(optimizer).pop(name, None)


def _install(optimizer: Any, cohorts: dict[Any, Cohort], pace: Pace | None) -> None:
    update, decay = optimizer._backend_update_step, optimizer._apply_weight_decay
    clock = optimizer._iterations
    correct = _nadam_product(optimizer) if isinstance(optimizer, keras.optimizers.Nadam) else None

    def cohort_of(variable: Any) -> Cohort:
        return cohorts.get(optimizer._var_key(variable), _PLAIN)

    def pace_now() -> Any:
        if pace is None:
            return 1.0
        return pace.curve.factor(ops.cast(clock - pace.start, "float32"), pace.steps)

    def update_by_cohort(grads: Any, variables: Any, learning_rate: Any) -> None:
        factor = pace_now()
        for cohort, members in _split(list(zip(grads, variables, strict=True)), cohort_of).items():
            steps = clock - cohort.start if cohort.start else clock
            rate = _scaled(_scaled(learning_rate, cohort.multiplier), factor)
            _override(optimizer, "_iterations", steps)
            try:
                if correct is not None:
                    correct(steps)
                update([g for g, _ in members], [v for _, v in members], rate)
            finally:
                _override(optimizer, "_iterations", clock)
        if correct is not None:
            correct(clock + 1)  # what is kept and saved is the whole run's

    def decay_by_cohort(variables: Any) -> None:
        # `learning_rate` is read past the arguments here, so it has to be replaced whole.
        base = optimizer._learning_rate
        if isinstance(base, _Multiplied):  # by another replica, which waits for this one
            base = base.base
        decayed = [(None, v) for v in variables if optimizer._use_weight_decay(v)]
        factor = pace_now()
        for cohort, members in _split(decayed, cohort_of).items():
            rate = _Multiplied(optimizer, base, cohort.multiplier, factor)
            _override(optimizer, "_learning_rate", rate)
            try:
                decay([v for _, v in members])
            finally:
                _override(optimizer, "_learning_rate", base)

    _override(optimizer, "_backend_update_step", update_by_cohort)
    _override(optimizer, "_apply_weight_decay", decay_by_cohort)


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
            rate = rate(self._optimizer._iterations)
        elif callable(rate) and not isinstance(rate, keras.Variable):
            rate = rate()
        return _scaled(_scaled(rate, self._multiplier), self._factor)


def _scaled(rate: Any, factor: Any) -> Any:
    if isinstance(factor, float):
        return rate if factor == 1.0 else ops.multiply(rate, factor)
    rate = ops.convert_to_tensor(rate)
    return ops.multiply(rate, ops.cast(factor, rate.dtype))


def _split(
    members: list[tuple[Any, Any]], cohort_of: Callable[[Any], Cohort]
) -> dict[Cohort, list[tuple[Any, Any]]]:
    split: dict[Cohort, list[tuple[Any, Any]]] = {}
    for gradient, variable in members:
        split.setdefault(cohort_of(variable), []).append((gradient, variable))
    return dict(sorted(split.items()))


def _override(optimizer: Any, name: str, value: Any) -> None:
    # Past Keras's and TensorFlow's attribute tracking: nothing of this is saved.
    object.__setattr__(optimizer, name, value)


def _nadam_product(optimizer: Any) -> Callable[[Any], None]:
    """Return what sets Nadam's running product to its value after so many steps.

    The product of the momentum schedule is the one piece of state that an optimizer of Keras
    keeps for all variables together, so it can't be right for two cohorts at once.
    """
    steps = np.arange(1, 512)
    decays = np.concatenate([[1.0], np.cumprod(1 - 0.5 * np.power(0.96, steps))])

    def set_product(steps_done: Any) -> None:
        product = optimizer._u_product
        index = ops.minimum(ops.cast(steps_done, "int32"), len(decays) - 1)
        decay = ops.take(ops.convert_to_tensor(decays, dtype=product.dtype), index)
        exponent = ops.cast(steps_done, product.dtype)
        product.assign(ops.power(ops.cast(optimizer.beta_1, product.dtype), exponent) * decay)

    return set_product
