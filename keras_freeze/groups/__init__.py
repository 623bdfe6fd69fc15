"""Layer groups: where a model is frozen, as an ordered tuple of its parts from input to head.

`division` is the front door: it reads a model's graph of calls, asks `pretrained` which part that
is, finds the groups or takes the user's, and gives each its layers and weights. What decides about
the groups is pure: `automatic`, below it `segments`, `atoms`, `labels` and `kinds`, and `names`,
which names them.
"""

from keras_freeze.groups.division import layer_groups, picture_of, with_groups
from keras_freeze.groups.pretrained import Backbone, names_of
from keras_freeze.groups.user_defined import Groups
from keras_freeze.model_picture import LayerGroup

__all__ = [
    "Backbone",
    "Groups",
    "LayerGroup",
    "layer_groups",
    "names_of",
    "picture_of",
    "with_groups",
]
