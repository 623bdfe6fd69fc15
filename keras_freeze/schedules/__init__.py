"""Freeze schedules: which part of a model is frozen *when*. Pure values.

A schedule is a sequence of phases; each says what is frozen in it, at which multiples of the
compiled learning rate the layer groups train, how `BatchNormalization` is treated, and what ends
it. Schedules are built by name, by hand or from a YAML file, previewed for a model, and planned
for a callback; to apply one is the work of `FreezeScheduler` and `GradualUnfreeze`.
"""

import warnings
from typing import Any

from keras_freeze.schedules.adaptive import (
    AdaptivePlan as AdaptivePlan,
    AdaptiveSchedule as AdaptiveSchedule,
    Decision as Decision,
    Evidence as Evidence,
    Outcome as Outcome,
)
from keras_freeze.schedules.as_dict import fingerprint as fingerprint
from keras_freeze.schedules.auto import Auto
from keras_freeze.schedules.builders import (
    chain_thaw,
    gradual,
    linear_probe_then_fine_tune,
    progressive_freeze,
)
from keras_freeze.schedules.curves import Annealing, Cosine, Curve, SlantedTriangular, Warmup
from keras_freeze.schedules.decisions import (
    DecisionRow as DecisionRow,
    Decisions,
    Measured as Measured,
)
from keras_freeze.schedules.epoch_plans import even_starts, unfreeze_plan
from keras_freeze.schedules.freeze_out import FreezeOut as FreezeOut
from keras_freeze.schedules.locations import placed as placed
from keras_freeze.schedules.metrics import (
    direction as direction,
    direction_by_name as direction_by_name,
    improves as improves,
    monitored as monitored,
)
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.planners import (
    ByDecisions as ByDecisions,
    FromTheHead as FromTheHead,
    GivenSchedule as GivenSchedule,
    Planner as Planner,
)
from keras_freeze.schedules.previews import SchedulePreview, preview, preview_in as preview_in
from keras_freeze.schedules.progress import (
    Moment as Moment,
    Progress as Progress,
    beginning as beginning,
    end_of_phase as end_of_phase,
    progress_at as progress_at,
    soonest as soonest,
    timeline as timeline,
)
from keras_freeze.schedules.rates import (
    AUTO as AUTO,
    DEFAULT_RATES,
    Rates as Rates,
    check_rates as check_rates,
    multipliers,
)
from keras_freeze.schedules.records import RecordRow as RecordRow, ScheduleRecord
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.settling import Settling as Settling, Tolerance as Tolerance
from keras_freeze.schedules.top_gradient import TopGradient
from keras_freeze.schedules.triggers import (
    AfterEpochs,
    AfterSteps,
    AllOf,
    AnyOf,
    OnPlateau,
    Trigger,
    TriggerLike as TriggerLike,
    When,
    as_trigger as as_trigger,
    every_trigger as every_trigger,
    what_fired as what_fired,
)

__all__ = [
    "DEFAULT_RATES",
    "AfterEpochs",
    "AfterSteps",
    "AllOf",
    "Annealing",
    "AnyOf",
    "Auto",
    "Cosine",
    "Curve",
    "Decisions",
    "FreezeSchedule",
    "OnPlateau",
    "Phase",
    "SchedulePreview",
    "ScheduleRecord",
    "SlantedTriangular",
    "TopGradient",
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
