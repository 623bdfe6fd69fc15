"""The engine: the one place that changes a model.

`transitions` sets flags and rebuilds the train step, `optimizer_state` carries the optimizer's
state over, `update_rules` gives each variable its learning-rate multiplier and step count,
`snapshot` copies the whole training state to the host and back, `preserving` undoes a trial.
`model_state` holds what is known of a model beside the model itself. Nothing here decides what to
freeze or when.
"""

from keras_freeze.engine import recordings, snapshot
from keras_freeze.engine.fingerprints import fingerprint, fingerprint_of
from keras_freeze.engine.model_state import ModelState, state_of
from keras_freeze.engine.optimizer_state import leaf_optimizers
from keras_freeze.engine.preserving import preserved
from keras_freeze.engine.transitions import (
    flags_in_force,
    idle_optimizers,
    paths_with_several_optimizers,
    paths_without_optimizer,
    recompile,
    stale_flags,
    sync_jax_state_by,
    transition,
)
from keras_freeze.engine.update_rules import ActiveCurve, rules_of

__all__ = [
    "ActiveCurve",
    "ModelState",
    "fingerprint",
    "fingerprint_of",
    "flags_in_force",
    "idle_optimizers",
    "leaf_optimizers",
    "paths_with_several_optimizers",
    "paths_without_optimizer",
    "preserved",
    "recompile",
    "recordings",
    "rules_of",
    "snapshot",
    "stale_flags",
    "state_of",
    "sync_jax_state_by",
    "transition",
]
