"""What the table says of every layer and operation, against what it does.

Each is called twice on the same samples, together with others and in another order. One that
may be cached has to return the same for a sample each time and to leave every variable as it was;
of one that may not, something of this has to differ, or the reason is one that can't be seen here.
"""

import keras
import numpy as np
import pytest
from keras import layers
from operations import LAYERS, OPERATIONS, ROWS, model_of, samples

from keras_freeze.cuts import determinism_rules
from keras_freeze.cuts.determinism import reason_in_graph
from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.frontier import Frontier
from keras_freeze.cuts.reasons import Reason
from keras_freeze.model_picture import every_layer
from keras_freeze.prefix_cache import planning
from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.planning import Options

#: Reasons that a single call does not show.
UNSEEN = (Reason.NOT_KNOWN, Reason.ADDS_LOSS)


def reason_against(model, training=True):
    """Return why the last call that is not an input can't be cached, or one before it."""
    setting = Setting(trained=(), inference=not training)
    for layer in model.layers:
        layer.trainable = type(layer).__name__ == "BatchNormalization"
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    found = [reason_in_graph(node, setting) for node in nodes if not node.is_input]
    return next((reason for reason in found if reason is not None), None)


def values_of(model):
    return [keras.ops.convert_to_numpy(v) for layer in every_layer(model) for v in layer.variables]


def differs(found, model, training=True):
    """Tell whether an output depends on more than its sample, or something is written."""
    before = values_of(model)
    order = np.array([4, 0, 2])
    try:
        whole = model(samples(found, np.arange(ROWS)), training=training)
        part = model(samples(found, order), training=training)
    except Exception:  # where another number of samples does not fit
        return True
    flat = zip(keras.tree.flatten(whole), keras.tree.flatten(part), strict=True)
    for one, other in flat:
        left, right = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        if len(left) != ROWS or len(right) != len(order):
            return True
        if not np.allclose(left[order], right, rtol=1e-5, atol=1e-5, equal_nan=True):
            return True
    return any(not np.array_equal(a, b) for a, b in zip(before, values_of(model), strict=True))


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize("name", [*LAYERS, *OPERATIONS])
def test_what_the_table_says_is_what_happens(name):
    keras.utils.set_random_seed(3)
    found = LAYERS.get(name) or OPERATIONS[name]
    model = model_of(found)
    reason = reason_against(model)
    if reason is None or reason.reason not in UNSEEN:
        assert differs(found, model) == (reason is not None), reason


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize("name", LAYERS)
def test_what_may_be_cached_in_validation_changes_nothing_there(name):
    keras.utils.set_random_seed(3)
    model = model_of(LAYERS[name])
    if reason_against(model, training=False) is None:
        assert not differs(LAYERS[name], model, training=False)


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize("name", LAYERS)
def test_trying_a_cut_changes_nothing(name):
    keras.utils.set_random_seed(3)
    found = LAYERS[name]
    below = model_of(found)
    reason_against(below)  # which freezes it
    outputs = layers.Rescaling(1.0)(below.output)
    outputs = layers.Reshape((1,))(outputs) if len(outputs.shape) == 1 else outputs
    outputs = layers.Dense(1)(outputs)
    model = keras.Model(below.inputs, outputs)
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    tensors = list(map(keras.ops.convert_to_tensor, samples(found, np.arange(ROWS))))
    batch = Batch(tensors if len(tensors) > 1 else tensors[0], state=jax_state(model))

    def values():
        return [to_host(v) for v in (*model.variables, *model.optimizer.variables)]

    before = values()
    frontier = planning.search(model, Options(False, False, False, None, lambda: None))
    if isinstance(frontier, Frontier):
        planning.trial(planning.make(model, frontier, batch, None), batch)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(), strict=True))


def jax_state(model):
    """Return what JAX's trainer passes into a step; nothing elsewhere."""
    if keras.backend.backend() != "jax":
        return ()
    variables = model.trainable_variables, model.non_trainable_variables
    return tuple([v.value for v in own] for own in variables)


#: Layers that are never cached, whatever they do, and those that are cells or bases of others.
NEVER = [
    "CutMix",
    "Equalization",
    "FlaxLayer",
    "Functional",
    "HashedCrossing",
    "Hashing",
    "InputLayer",
    "IntegerLookup",
    "JaxLayer",
    "Layer",
    "MaxNumBoundingBoxes",
    "MixUp",
    "Model",
    "Pipeline",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
    "Wrapper",
]
PARTS = ["ConvLSTMCell", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"]


def test_every_layer_of_the_table_is_tried():
    tried = {name.partition(",")[0] for name in LAYERS} | set(NEVER) | set(PARTS)
    assert not set(determinism_rules.LAYERS) - tried - set(determinism_rules.HUB_LAYERS)


def test_every_operation_of_the_table_is_tried():
    met = set()
    for found in OPERATIONS.values():
        nodes = model_of(found)._nodes_by_depth.values()
        met |= {type(node.operation).__name__ for same in nodes for node in same}
    assert not set(determinism_rules.OPERATIONS) - met
