"""Fingerprints: every dtype and shape, and every bit counts."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_freeze.engine.fingerprints import fingerprint

pytestmark = pytest.mark.backend
FLOATS = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
SHAPES = {"scalar": (), "empty": (0, 3), "one": (1,), "matrix": (3, 4)}


def variable(value, dtype="float32"):
    return keras.Variable(value, dtype=dtype, trainable=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint8", "int32", "bool"])
def test_any_dtype_and_shape(dtype, shape):
    zeros, ones = np.zeros(SHAPES[shape]), np.ones(SHAPES[shape])
    assert fingerprint(variable(zeros, dtype)) == fingerprint(variable(zeros, dtype))
    is_same = fingerprint(variable(zeros, dtype)) == fingerprint(variable(ones, dtype))
    assert is_same == (shape == "empty")


def test_every_element_counts():
    values = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
    found = {fingerprint(variable(values))}
    for index in np.ndindex(values.shape):
        other = values.copy()
        other[index] = np.nextafter(other[index], np.float32(9))  # the last bit
        found.add(fingerprint(variable(other)))
    assert len(found) == 13
    assert all(len(digest) == 16 for digest in found)


def test_bits_count_and_not_values():
    assert fingerprint(variable([0.0])) != fingerprint(variable([-0.0]))
    assert fingerprint(variable([np.nan])) == fingerprint(variable([np.nan]))


def test_a_variable_is_read_each_time():
    counter = variable(0, "int32")
    before = fingerprint(counter)
    counter.assign(1)
    assert fingerprint(counter) != before
    counter.assign(0)
    assert fingerprint(counter) == before


def test_the_weights_of_a_layer_that_trains_can_be_read():
    trained = keras.Variable(
        np.ones(3), dtype="float32", trainable=True
    )  # torch refuses arrays of these
    assert fingerprint(trained) == fingerprint(variable(np.ones(3)))


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import keras, numpy as np
from keras_freeze.engine.fingerprints import fingerprint
mesh = keras.distribution.DeviceMesh((2,), ["model"], jax.devices())
layouts = keras.distribution.LayoutMap(mesh)
values = np.arange(8.0).reshape(4, 2)
whole = fingerprint(keras.Variable(values))
layouts["kernel"] = (None, "model")
keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layouts))
split = keras.Variable(values, name="kernel")
assert len(split.value.sharding.device_set) == 2, split.value.sharding
assert not split.value.is_fully_replicated
assert fingerprint(split) == whole
split.assign(values + 1)
assert fingerprint(split) != whole
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shards variables")
@pytest.mark.slow_on_jax
def test_a_sharded_variable_has_the_same_fingerprint():
    ran = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="only JAX shards variables")
def test_of_a_variable_on_several_hosts_the_part_here_is_taken():
    class Shard:
        data = np.arange(4.0, dtype="float32")

    class Spread:  # what JAX refuses to gather
        is_fully_addressable = False
        addressable_shards = (Shard,)

    class Remote:
        value = Spread()

    assert fingerprint(Remote()) == fingerprint(variable(np.arange(4.0)))
