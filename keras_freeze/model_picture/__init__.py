"""How a Keras model is put together, read once: an immutable picture that all planning works on.

`layers` reads what `picture` holds: the layers, nested models opened, and who owns which weight;
`optimizers` finds what trains them.
Nothing here changes a model, and nothing above asks Keras for its structure again.
"""

from keras_freeze.model_picture.hidden_state import (
    HiddenState,
    frozen_hidden_states,
    hidden_states,
    set_hidden_state,
)
from keras_freeze.model_picture.initial_values import all_untouched, with_initial_values
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
    count_params,
    every_layer,
    frozen_weights,
    is_attention,
    is_batch_norm,
    is_built,
    is_composite,
    is_embedding,
    is_of_keras_hub,
    is_transformer_block,
    nested_model,
    opened_layers,
    parts_of,
    teacher_of,
    weights_of,
    weights_of_operation,
)
from keras_freeze.model_picture.optimizers import (
    learning_rate_of,
    main_optimizer,
    optimizers_of,
    own_optimizers,
)
from keras_freeze.model_picture.picture import ModelPicture, Pretrained, read_model

__all__ = [
    "GroupNames",
    "HiddenState",
    "LayerGroup",
    "ModelPicture",
    "Pretrained",
    "Weight",
    "all_untouched",
    "bytes_of",
    "check_model",
    "count_params",
    "every_layer",
    "frozen_hidden_states",
    "frozen_weights",
    "hidden_states",
    "is_attention",
    "is_batch_norm",
    "is_built",
    "is_composite",
    "is_embedding",
    "is_of_keras_hub",
    "is_transformer_block",
    "known_group",
    "known_groups",
    "learning_rate_of",
    "main_optimizer",
    "nested_model",
    "opened_layers",
    "optimizers_of",
    "own_optimizers",
    "parts_of",
    "read_model",
    "set_hidden_state",
    "teacher_of",
    "weights_of",
    "weights_of_operation",
    "with_initial_values",
]
