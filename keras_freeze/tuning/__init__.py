"""Search with KerasTuner how deep to freeze a model, and when to unfreeze it.

`freeze_depth`, `schedule` and `rates` are dimensions of any search, also with other tuners.
`DepthSweep`, `RandomSearch`, `BayesianOptimization` and `Hyperband` run one, as does Optuna with
`optuna_objective`: each trial starts from the pretrained weights, shares what frozen layers compute
with the others, and records what trained when. The folder of a search holds all that it found, and
an interrupted search resumes from it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_freeze.tuning import (
    results as results,
    search_folder as search_folder,
    trial_record as trial_record,
)
from keras_freeze.tuning.spaces import freeze_depth, rates, schedule

if TYPE_CHECKING:
    from keras_freeze.tuning.depth_sweep import DepthSweep
    from keras_freeze.tuning.optuna_trials import optuna_objective
    from keras_freeze.tuning.tuners import BayesianOptimization, Hyperband, RandomSearch

# KerasTuner is imported when something searches; the functions for `hp` do without.
_SEARCHING = {
    "BayesianOptimization": "tuners",
    "DepthSweep": "depth_sweep",
    "Hyperband": "tuners",
    "RandomSearch": "tuners",
    "optuna_objective": "optuna_trials",
}

__all__ = [
    "BayesianOptimization",
    "DepthSweep",
    "Hyperband",
    "RandomSearch",
    "freeze_depth",
    "optuna_objective",
    "rates",
    "schedule",
]


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


def __getattr__(name: str) -> Any:
    if name not in _SEARCHING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_SEARCHING[name]}"), name)
