"""Whatever writes to a weight is noticed, and nothing else is."""

import keras
import numpy as np
import pytest

from keras_freeze.prefix_cache import weight_watch
from keras_freeze.prefix_cache.weight_watch import Watch

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()


@pytest.fixture
def variables():
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (1000, 30)]
    return [keras.Variable(rng.normal(size=s).astype("float32"), name=f"v{s}") for s in shapes]


def test_nothing_has_changed(variables):
    watch = Watch(variables)
    assert watch.changed() == watch.changed(thorough=True) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_an_assignment_is_noticed(n, variables):
    watch = Watch(variables)
    variables[n].assign(variables[n] * 1.5)
    assert watch.changed() == [n]
    assert watch.changed() == [n]  # until it is renewed
    assert Watch(variables).changed() == []


def test_one_element_is_enough(variables):
    watch = Watch(variables)
    values = keras.ops.convert_to_numpy(variables[2]).copy()
    values[999, 29] += 1.0
    variables[2].assign(values)
    assert watch.changed() == [2]


def test_the_same_values_written_again_are_no_change(variables):
    watch = Watch(variables)
    for variable in variables:
        variable.assign(keras.ops.convert_to_numpy(variable).copy())
    assert watch.changed() == []
    variables[1].assign_add(keras.ops.ones((4,)))
    assert watch.changed() == [1]


def test_what_was_there_again_is_no_change(variables):
    before = keras.ops.convert_to_numpy(variables[0]).copy()
    watch = Watch(variables)
    variables[0].assign(before + 1.0)
    variables[0].assign(before)
    assert watch.changed() == []


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_a_write_in_a_compiled_step(variables):
    import tensorflow as tf

    watch = Watch(variables)
    tf.function(lambda: variables[0].assign(variables[0] + 1.0))()
    assert watch.changed() == [0]


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_a_write_in_place(variables):
    import torch

    watch = Watch(variables)
    with torch.no_grad():
        variables[0].value.add_(1.0)
    assert watch.changed() == [0]


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_a_write_past_torchs_count_is_found_if_asked(variables):
    watch = Watch(variables)
    variables[0].value.data.mul_(0.9)
    assert watch.changed() == []
    assert watch.changed(thorough=True) == [0]


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_what_cannot_be_written_to_is_not_read_again(variables, monkeypatch):
    monkeypatch.setattr(weight_watch, "is_on_host", lambda value: False)
    read = []
    monkeypatch.setattr(weight_watch, "fingerprint_of", lambda value: read.append(value) or b"")
    watch = Watch(variables)
    assert len(read) == 3
    assert watch.changed(thorough=True) == [] and len(read) == 3
    variables[1].assign(variables[1] + 1.0)
    watch.changed()
    assert len(read) == 4


def test_values_may_be_found_elsewhere(variables):
    values = [variable.value for variable in variables]
    watch = Watch(variables, values)
    assert watch.changed(values) == []
    others = [values[0], values[1] + 1.0, values[2]]
    assert watch.changed(others) == [1]
