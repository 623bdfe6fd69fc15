"""Freeze schedules: which part of a model is frozen when. Pure values.

A schedule is a sequence of phases. Each phase says what is frozen in it, at which multiples of
the compiled learning rate the layer groups train, how `BatchNormalization` is treated, and what
ends it. `FreezeScheduler` runs any of them; `GradualUnfreeze` makes its own from the model's
groups.
"""

from keras_freeze.schedules.as_dict import fingerprint as fingerprint
from keras_freeze.schedules.builders import (
    chain_thaw,
    gradual,
    linear_probe_then_fine_tune,
    progressive_freeze,
)
from keras_freeze.schedules.curves import Cosine, Curve, SlantedTriangular, Warmup
from keras_freeze.schedules.epoch_plans import even_starts, thaw_plan
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.phases import placed as placed
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
from keras_freeze.schedules.triggers import improves as improves
from keras_freeze.schedules.triggers import monitored as monitored

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
