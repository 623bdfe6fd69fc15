"""Give each variable its own learning-rate multiplier and step count in a stock optimizer.

Variables that share both form a *cohort*. An optimizer whose variables are not all in the
plain cohort (multiplier 1, trained since step 0) applies its own update rule once a cohort,
with the learning rate multiplied and the iteration count shifted to the cohort's first step.
So a variable that joins at step 5,000 is treated as by a new optimizer at step 0, whatever
the optimizer's bias correction, warm-up or averaging, and the optimizer keeps its class.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_freeze import optimizer_state


@dataclasses.dataclass(frozen=True, order=True)
class Cohort:
    """Variables that train alike.

    Attributes:
        start: Int, in batches. The optimizer's iteration count when they joined.
        multiplier: Float. What their learning rate is multiplied by.
    """

    start: int = 0
    multiplier: float = 1.0


_PLAIN = Cohort()
_cohorts: weakref.WeakKeyDictionary[Any, dict[int, Cohort]] = weakref.WeakKeyDictionary()


def cohorts_of(optimizer: Any) -> dict[int, Cohort]:
    """Return the cohorts of an optimizer's variables, by variable id, without the plain ones."""
    return dict(_cohorts.get(optimizer, {}))


def assign_cohorts(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    joined: Sequence[keras.Variable],
    multipliers: Mapping[int, float] | None,
) -> None:
    """Set the cohorts of one optimizer's variables.

    Args:
        optimizer: A leaf optimizer, which updates variables itself.
        variables: All variables that it trains.
        joined: Those of them that train from now on, with new slots.
        multipliers: Learning-rate multiplier by variable id, 1 where missing; None keeps the
            present ones.
    """
    now = optimizer_state.iterations(optimizer)
    before, new_ids = _cohorts.get(optimizer, {}), {id(v) for v in joined}
    after = {}
    for variable in variables:
        old = before.get(id(variable), _PLAIN)
        rate = old.multiplier if multipliers is None else multipliers.get(id(variable), 1.0)
        cohort = Cohort(now if id(variable) in new_ids else old.start, rate)
        if cohort != _PLAIN:
            after[id(variable)] = cohort
    _cohorts[optimizer] = after
    _uninstall(optimizer)
    if after:
        by_key = {optimizer._var_key(v): after[id(v)] for v in variables if id(v) in after}
        _install(optimizer, by_key)


def _uninstall(optimizer: Any) -> None:
    for name in ("_backend_update_step", "_apply_weight_decay"):
        vars(optimizer).pop(name, None)


def _install(optimizer: Any, cohorts: dict[Any, Cohort]) -> None:
    update, decay = optimizer._backend_update_step, optimizer._apply_weight_decay
    clock = optimizer._iterations
    correct = _nadam_product(optimizer) if isinstance(optimizer, keras.optimizers.Nadam) else None

    def cohort_of(variable: Any) -> Cohort:
        return cohorts.get(optimizer._var_key(variable), _PLAIN)

    def update_by_cohort(grads: Any, variables: Any, learning_rate: Any) -> None:
        for cohort, members in _split(list(zip(grads, variables, strict=True)), cohort_of).items():
            steps = clock - cohort.start if cohort.start else clock
            rate = _scaled(learning_rate, cohort.multiplier)
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
        for cohort, members in _split(decayed, cohort_of).items():
            _override(optimizer, "_learning_rate", _Multiplied(optimizer, base, cohort.multiplier))
            try:
                decay([v for _, v in members])
            finally:
                _override(optimizer, "_learning_rate", base)

    _override(optimizer, "_backend_update_step", update_by_cohort)
    _override(optimizer, "_apply_weight_decay", decay_by_cohort)


class _Multiplied:
    """A learning rate times a multiplier, evaluated where the optimizer reads it."""

    def __init__(self, optimizer: Any, base: Any, multiplier: float):
        self.base = base
        self._optimizer = optimizer
        self._multiplier = multiplier

    def __call__(self) -> Any:
        rate = self.base
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(self._optimizer._iterations)
        elif callable(rate) and not isinstance(rate, keras.Variable):
            rate = rate()
        return _scaled(rate, self._multiplier)


def _scaled(rate: Any, multiplier: float) -> Any:
    return rate if multiplier == 1.0 else ops.multiply(rate, multiplier)


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
