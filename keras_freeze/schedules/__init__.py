"""Freeze schedules: which part of a model is frozen when. Pure values.

A schedule is a sequence of phases. Each phase says what is frozen in it, at which multiples of
the compiled learning rate the layer groups train, how `BatchNormalization` is treated, and what
ends it. `FreezeScheduler` runs any of them; `GradualUnfreeze` makes its own from the model's
groups.
"""

from keras_freeze.schedules.builders import (
    chain_thaw,
    gradual,
    linear_probe_then_fine_tune,
    progressive_freeze,
)
from keras_freeze.schedules.curves import Cosine, Curve, SlantedTriangular, Warmup
from keras_freeze.schedules.epoch_plans import even_starts, thaw_plan
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.previews import SchedulePreview, preview
from keras_freeze.schedules.rates import DEFAULT_RATES, multipliers
from keras_freeze.schedules.triggers import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    OnPlateau,
    Trigger,
    When,
)

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
    "thaw_plan",
]
