"""A fine-tuning scheduler for Keras 3: freeze and unfreeze layers, keeping all training state."""

from keras_freeze import explain, plots, policies, schedules, tuning
from keras_freeze.advice import Suggestion, check, suggest
from keras_freeze.backup import BackupAndRestore
from keras_freeze.callbacks import (
    AutoFreeze,
    FreezeGuard,
    FreezeScheduler,
    GradualUnfreeze,
    MaxNorm,
    ProgressiveFreeze,
)
from keras_freeze.engine import recompile
from keras_freeze.findings import Findings
from keras_freeze.freezing import FreezeResult, freeze, unfreeze, unfreeze_only
from keras_freeze.groups import LayerGroup, layer_groups
from keras_freeze.learning_rates import LearningRateRange, find_learning_rate
from keras_freeze.live import LiveView
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.ranking import GroupRanking, rank_groups
from keras_freeze.reports import ParameterReport, parameter_report

__version__ = "0.2.0"

__all__ = [
    "AutoFreeze",
    "BackupAndRestore",
    "Findings",
    "FreezeGuard",
    "FreezeResult",
    "FreezeScheduler",
    "GradualUnfreeze",
    "GroupRanking",
    "LayerGroup",
    "LearningRateRange",
    "LiveView",
    "MaxNorm",
    "ParameterReport",
    "PrefixCache",
    "ProgressiveFreeze",
    "Suggestion",
    "check",
    "explain",
    "find_learning_rate",
    "freeze",
    "layer_groups",
    "parameter_report",
    "plots",
    "policies",
    "rank_groups",
    "recompile",
    "schedules",
    "suggest",
    "tuning",
    "unfreeze",
    "unfreeze_only",
]


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
