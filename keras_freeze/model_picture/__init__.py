"""How a Keras model is put together: its layers, opened, and who owns which weight.

Everything above asks this folder instead of Keras. Nothing here changes a model.
"""

from keras_freeze.model_picture.layer_group import (
    GroupNames,
    LayerGroup,
    known_group,
    known_groups,
)
from keras_freeze.model_picture.layers import (
    Weight,
    bytes_of,
    check_model,
    every_layer,
    frozen_weights,
    is_batch_norm,
    is_built,
    nested_model,
    opened_layers,
    weights_of,
    weights_of_operation,
)

__all__ = [
    "GroupNames",
    "LayerGroup",
    "Weight",
    "bytes_of",
    "check_model",
    "every_layer",
    "frozen_weights",
    "is_batch_norm",
    "is_built",
    "known_group",
    "known_groups",
    "nested_model",
    "opened_layers",
    "weights_of",
    "weights_of_operation",
]
