"""The callbacks that freeze and unfreeze during `fit`: thin drivers of schedules and engine.

`freeze_scheduler` runs any schedule, `gradual_unfreeze` plans one from the head down,
`auto_freeze` lets groups freeze as they settle, `progressive_freeze` by a calendar,
`freeze_guard` checks that what is frozen stays fixed, `max_norm` bounds weights by group.
`fit_plan` is what is decided before a fit, `schedule_run` and `adaptive_run` are its state,
`run_state` is that as plain data, `phase_status` is what a live view shows of it, `resume_point`
finds where in its schedule a fit begins and records where it has come.
"""

from keras_freeze.callbacks.auto_freeze import AutoFreeze
from keras_freeze.callbacks.freeze_guard import FreezeGuard
from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_freeze.callbacks.max_norm import MaxNorm
from keras_freeze.callbacks.progressive_freeze import ProgressiveFreeze
from keras_freeze.callbacks.schedule_run import frozen_groups as frozen_groups

__all__ = [
    "AutoFreeze",
    "FreezeGuard",
    "FreezeScheduler",
    "GradualUnfreeze",
    "MaxNorm",
    "ProgressiveFreeze",
]
