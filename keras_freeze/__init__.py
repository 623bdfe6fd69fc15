"""The fine-tuning scheduler for Keras 3: freeze, thaw layer by layer, lose nothing."""

from keras_freeze import policies
from keras_freeze.freezing import freeze, unfreeze
from keras_freeze.groups import layer_groups
from keras_freeze.recompile import recompile

__version__ = "0.1.0"

__all__ = [
    "freeze",
    "layer_groups",
    "policies",
    "recompile",
    "unfreeze",
]
