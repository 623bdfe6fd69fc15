"""Every optimizer of Keras, and the options that hold state, as the tests need them."""

from __future__ import annotations

import keras
import pytest

_O = keras.optimizers
_SCHEDULE = _O.schedules.CosineDecay(0.1, decay_steps=20)

#: Optimizers that update each variable by itself: a cohort of theirs can equal a fresh one.
PER_VARIABLE = {
    "sgd": lambda: _O.SGD(0.1),
    "sgd-momentum": lambda: _O.SGD(0.1, momentum=0.9),
    "sgd-nesterov": lambda: _O.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: _O.RMSprop(0.01),
    "rmsprop-centered": lambda: _O.RMSprop(0.01, momentum=0.9, centered=True),
    "adam": lambda: _O.Adam(0.01),
    "adam-amsgrad": lambda: _O.Adam(0.01, amsgrad=True),
    "adam-weight-decay": lambda: _O.Adam(0.01, weight_decay=0.1),
    "adam-clipnorm": lambda: _O.Adam(0.01, clipnorm=0.01),
    "adam-clipvalue": lambda: _O.Adam(0.01, clipvalue=0.01),
    "adamw": lambda: _O.AdamW(0.01, weight_decay=0.1),
    "adamax": lambda: _O.Adamax(0.01),
    "nadam": lambda: _O.Nadam(0.01),
    "adagrad": lambda: _O.Adagrad(0.1),
    "adadelta": lambda: _O.Adadelta(1.0),
    # With Keras's 1e-30 the weights of a dead unit, whose gradients are 0, can become NaN.
    "adafactor": lambda: _O.Adafactor(0.01, epsilon_1=1e-16),
    "ftrl": lambda: _O.Ftrl(0.1),
    "lion": lambda: _O.Lion(0.001, weight_decay=0.1),
    "lamb": lambda: _O.Lamb(0.01),
    "muon": lambda: _O.Muon(0.01),
    "schedule-free-adamw": lambda: _O.ScheduleFreeAdamW(0.01, warmup_steps=3),
}

#: Options that involve all variables, the step count or another optimizer.
COMBINED = {
    "adam-global-clipnorm": lambda: _O.Adam(0.01, global_clipnorm=0.01),
    "adam-schedule": lambda: _O.Adam(_SCHEDULE),
    "adam-callable": lambda: _O.Adam(lambda: 0.01),
    "adam-accumulation": lambda: _O.Adam(0.01, gradient_accumulation_steps=3),
    "adam-ema": lambda: _O.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
    "adamw-excluded": lambda: _excluded(),
    "loss-scale": lambda: _O.LossScaleOptimizer(_O.Adam(0.01), dynamic_growth_steps=5),
    "multi-map": lambda: _O.MultiOptimizer(
        _O.OptimizerMap(_O.Adam(0.01), {".*bias": _O.SGD(0.1, momentum=0.9)})
    ),
    "multi-callable": lambda: _by_callable(),
}

ALL = {**PER_VARIABLE, **COMBINED}

#: Those of every commit, one of each kind of state; `make test-all` tries all.
_QUICK = {
    *("sgd-momentum", "rmsprop-centered", "adam", "adam-amsgrad", "adam-clipnorm", "nadam"),
    *("adafactor", "lion", "schedule-free-adamw", "adam-accumulation", "adam-ema", "loss-scale"),
    *("adamw-excluded", "multi-map", "adam-callable"),
}


def cases(names):
    """Return optimizers as parameters of a test, most of them slow."""
    return [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in names]


def _excluded() -> keras.Optimizer:
    optimizer = _O.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _by_callable() -> keras.Optimizer:
    kernels, others = _O.Adam(0.01), _O.SGD(0.1, momentum=0.9)
    return _O.MultiOptimizer(lambda variable: kernels if "kernel" in variable.path else others)
