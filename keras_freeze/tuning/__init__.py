"""Search how deep to freeze, and when to thaw, with KerasTuner."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_freeze.tuning.spaces import freeze_depth, rates, schedule

if TYPE_CHECKING:
    from keras_freeze.tuning.depth_sweep import DepthSweep
    from keras_freeze.tuning.tuners import BayesianOptimization, Hyperband, RandomSearch

# KerasTuner is imported when a tuner is asked for; the functions for `hp` do without.
_TUNERS = {
    "BayesianOptimization": "tuners",
    "DepthSweep": "depth_sweep",
    "Hyperband": "tuners",
    "RandomSearch": "tuners",
}

__all__ = [
    "BayesianOptimization",
    "DepthSweep",
    "Hyperband",
    "RandomSearch",
    "freeze_depth",
    "rates",
    "schedule",
]


def __getattr__(name: str) -> Any:
    if name not in _TUNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TUNERS[name]}"), name)
