"""Freeze schedules: which part of a model is frozen *when*. Pure values.

A schedule is a sequence of phases; each says what is frozen in it, at which multiples of the
compiled learning rate the layer groups train, how `BatchNormalization` is treated, and what ends
it. Schedules are built by name, by hand or from a YAML file, previewed for a model, and planned
for a callback; to apply one is the work of `FreezeScheduler` and `GradualUnfreeze`.
"""

import warnings
from typing import Any

from keras_freeze.schedules.as_dict import fingerprint as fingerprint
from keras_freeze.schedules.builders import (
    chain_thaw,
    gradual,
    linear_probe_then_fine_tune,
    progressive_freeze,
)
from keras_freeze.schedules.curves import Cosine, Curve, SlantedTriangular, Warmup
from keras_freeze.schedules.epoch_plans import even_starts, unfreeze_plan
from keras_freeze.schedules.locations import placed as placed
from keras_freeze.schedules.metrics import improves as improves
from keras_freeze.schedules.metrics import monitored as monitored
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.planners import FromTheHead as FromTheHead
from keras_freeze.schedules.planners import GivenSchedule as GivenSchedule
from keras_freeze.schedules.planners import Planner as Planner
from keras_freeze.schedules.previews import SchedulePreview, preview
from keras_freeze.schedules.progress import Moment as Moment
from keras_freeze.schedules.progress import Progress as Progress
from keras_freeze.schedules.progress import beginning as beginning
from keras_freeze.schedules.progress import progress_at as progress_at
from keras_freeze.schedules.progress import soonest as soonest
from keras_freeze.schedules.progress import timeline as timeline
from keras_freeze.schedules.rates import DEFAULT_RATES, multipliers
from keras_freeze.schedules.rates import Rates as Rates
from keras_freeze.schedules.rates import check_rates as check_rates
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    OnPlateau,
    Trigger,
    When,
)
from keras_freeze.schedules.triggers import TriggerLike as TriggerLike
from keras_freeze.schedules.triggers import as_trigger as as_trigger

__all__ = [
    "DEFAULT_RATES",
    "AfterEpochs",
    "AfterSteps",
    "AllOf",
    "AnyOf",
    "Cosine",
    "Curve",
    "FreezeSchedule",
    "OnPlateau",
    "Phase",
    "SchedulePreview",
    "SlantedTriangular",
    "Trigger",
    "Warmup",
    "When",
    "chain_thaw",
    "even_starts",
    "gradual",
    "linear_probe_then_fine_tune",
    "multipliers",
    "preview",
    "progressive_freeze",
    "unfreeze_plan",
]


def __getattr__(name: str) -> Any:
    """Return what was renamed, under its old name until 0.3."""
    if name == "thaw_plan":
        warnings.warn(
            "keras_freeze.schedules.thaw_plan is now unfreeze_plan; the old name goes in 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        return unfreeze_plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
