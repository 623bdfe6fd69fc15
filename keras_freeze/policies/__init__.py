"""Freeze policies: *which* variables of a model to freeze.

A policy is a small value that names variables and does nothing to them: by position, by name or
by a callable `(variable, layer) -> bool`; policies combine with `|` (either), `&` (both) and `~`
(all others). `flags` derives from a selection the `trainable` flags of variables and layers,
which the engine sets.
"""

from keras_freeze.policies.base import (
    FreezePolicy,
    FreezeWhere,
    Predicate as Predicate,
    as_policy,
    combined as combined,
    parts_of as parts_of,
)
from keras_freeze.policies.by_name import (
    FreezeLayers,
    FreezeMatching,
    FreezeWeights,
    check_weights as check_weights,
)
from keras_freeze.policies.by_position import FreezeBefore, FreezeFirst, FreezeGroups
from keras_freeze.policies.flags import (
    BatchNormMode as BatchNormMode,
    Flags as Flags,
    check_batch_norm as check_batch_norm,
    lost_in_a_file as lost_in_a_file,
    phase_flags as phase_flags,
    relative_flags as relative_flags,
    warn_of_hidden_state as warn_of_hidden_state,
)
from keras_freeze.policies.never import (
    KeepFrozen as KeepFrozen,
    keep_frozen_policy as keep_frozen_policy,
    kept_by_lora as kept_by_lora,
    with_kept_frozen as with_kept_frozen,
)
from keras_freeze.policies.selection import (
    Selection,
    everything as everything,
    of_groups as of_groups,
    of_layers as of_layers,
)

__all__ = [
    "FreezeBefore",
    "FreezeFirst",
    "FreezeGroups",
    "FreezeLayers",
    "FreezeMatching",
    "FreezePolicy",
    "FreezeWeights",
    "FreezeWhere",
    "Selection",
    "as_policy",
]
