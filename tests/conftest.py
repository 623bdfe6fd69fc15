"""What every test shares: a quiet and seeded Keras, and tiny models that look like real ones."""

import contextlib
import gc
import logging
import os
import sys
import zlib

# Read when the backend is imported, so set before anything else: no messages, no windows, and
# TensorFlow unless the caller (`make test-backends`) asks for another backend.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Two devices for the tests of keras.distribution on JAX, as for those of tf.distribute below.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
# One thread for each kind of work: tests run in several processes, and their models are tiny.
for _threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")


@contextlib.contextmanager
def silent_stderr():
    """Discard what goes to the process's stderr: TensorFlow's start-up obeys no setting."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with silent_stderr():
    import keras

import graphs
import hypothesis
import numpy as np
import pytest
from pretrained_models import as_if_trained

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework import ops  # the registry is not public

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # transitions retrace on purpose
    # Two logical devices for the strategy tests. They have to be there before TensorFlow first
    # runs something; measured, they change neither a result's bits nor the time it takes.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # A pipeline of tf.data that tunes itself waits for its tuner when it is deleted. Many are
    # deleted at once, when Python collects garbage: for 20 s at a time.
    graphs.optimize_if_thorough()
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    own_iter = tf.data.Dataset.__iter__
    tf.data.Dataset.__iter__ = lambda dataset: own_iter(dataset.with_options(untuned))

# What the imports made stays: the garbage collection that KerasTuner runs for each model that it
# builds need not look at half a million objects.
gc.freeze()

SEED = 0
# What a slow test may take; a test that kills trainings ten times takes minutes.
SLOW_LIMIT_S = 3600

# The factories that hypothesis may see as fixtures hold no state.
_shared = {
    "deadline": None,
    "suppress_health_check": [
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
}
hypothesis.settings.register_profile("quick", max_examples=6, derandomize=True, **_shared)
hypothesis.settings.register_profile("thorough", max_examples=200, print_blob=True, **_shared)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items):
    """Leave to `make test-all` what need not run on this backend before a change lands."""
    for item in items:
        at_commit = item.get_closest_marker("at_commit")
        is_left_out = at_commit is not None and item.callspec.id not in at_commit.args
        if is_left_out or (item.get_closest_marker("backend") and not _runs_here(item)):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a graphics processor"))
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))


def _has_gpu():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def _runs_here(item):
    """Tell whether a test of every backend runs on this one before a change lands.

    All run on torch, which is by far the fastest with tiny models, four of six on TensorFlow, and
    one of six on JAX, but for those that are slow there.
    """
    backend = keras.backend.backend()
    if item.get_closest_marker("jax_only"):
        return backend == "jax"
    if item.get_closest_marker("landing"):  # which are not run on other backends
        return backend == "tensorflow"
    share = zlib.crc32(item.nodeid.partition("[")[0].encode()) % 6
    if backend == "jax":
        return share == 0 and not item.get_closest_marker("slow_on_jax")
    return backend == "torch" or share not in (0, 3)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Let JAX keep what it compiles: tiny models come to the same programs again and again."""
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Start each test with the same seed, fresh layer names and the default dtype policy."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(SEED)


@pytest.fixture(autouse=True)
def closed():
    """Close the figures that a test leaves open in pyplot, which warns of more than twenty."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def released():
    """Release the training steps that a test traced, which would make a process grow and slow down.

    TensorFlow's registry of gradients keeps each of them, and with it a model and its optimizer.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    registered = ops.gradient_registry._registry
    before = set(registered)
    yield
    for name in registered.keys() - before:
        if name.startswith("CustomGradient"):
            del registered[name]


@pytest.fixture(scope="session")
def mirrored():
    """Return a MirroredStrategy over two logical CPU devices.

    One for all tests, since TensorFlow mixes up the collective operations of two in a process.
    """
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute")
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == 2, "set up above"
    return tf.distribute.MirroredStrategy(devices)


def build_plain():
    """Three dense layers: `low`, `middle`, `head`."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="low"),
            keras.layers.Dense(5, activation="relu", name="middle"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ],
        name="plain",
    )


def _conv_block(x, filters, name):
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _conv_backbone(inputs):
    x = _conv_block(inputs, 4, "block1")
    x = keras.layers.MaxPooling2D(name="block1_pool")(x)
    return _conv_block(x, 6, "block2")


def build_batch_norm():
    """Two convolution blocks with BatchNorm, inlined, and a head."""
    inputs = keras.Input((8, 8, 2), name="image")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(_conv_backbone(inputs))
    outputs = keras.layers.Dense(3, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="batch_norm")


def build_nested():
    """The same as `build_batch_norm`, with the backbone a layer, called with training=False."""
    backbone_inputs = keras.Input((8, 8, 2), name="image")
    backbone = keras.Model(backbone_inputs, _conv_backbone(backbone_inputs), name="backbone")
    inputs = keras.Input((8, 8, 2), name="photo")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(backbone(inputs, training=False))
    outputs = keras.layers.Dense(3, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="nested")


def build_multi_input():
    """Two inputs, a shared layer, a merge, and two outputs."""
    left = keras.Input((4,), name="left")
    right = keras.Input((4,), name="right")
    shared = keras.layers.Dense(5, activation="relu", name="shared")
    merged = keras.layers.Concatenate(name="merge")([shared(left), shared(right)])
    trunk = keras.layers.Dense(6, activation="relu", name="trunk")(merged)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(trunk)
    size = keras.layers.Dense(1, name="size")(trunk)
    return keras.Model([left, right], [kind, size], name="multi_input")


def build_recurrent():
    """Token ids through a masking embedding, two LSTMs and a head."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(11, 4, mask_zero=True, name="embedding"),
            keras.layers.LSTM(5, return_sequences=True, name="lstm_1"),
            keras.layers.LSTM(5, name="lstm_2"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ],
        name="recurrent",
    )


BUILDERS = {
    "plain": build_plain,
    "batch_norm": build_batch_norm,
    "nested": build_nested,
    "multi_input": build_multi_input,
    "recurrent": build_recurrent,
}


def _seeded(build):
    """Make each call of a factory give a model with the same weights, as if it were trained."""

    def factory(seed=SEED):
        keras.utils.set_random_seed(seed)
        return as_if_trained(build())

    return factory


@pytest.fixture
def plain():
    return _seeded(build_plain)


@pytest.fixture
def batch_norm():
    return _seeded(build_batch_norm)


@pytest.fixture
def nested():
    return _seeded(build_nested)


@pytest.fixture
def multi_input():
    return _seeded(build_multi_input)


@pytest.fixture
def recurrent():
    return _seeded(build_recurrent)


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "recurrent" else ())
        for name in BUILDERS
    ]
)
def any_model(request):
    """Run a test once for each of the tiny models; with LSTMs, which take long, as slow tests."""
    return _seeded(BUILDERS[request.param])


@pytest.fixture
def data_for():
    """Return a function `(model, rows=16) -> (x, y)`: seeded data of the shapes a model takes."""

    def data(model, rows=16, seed=SEED):
        rng = np.random.default_rng(seed)

        def inputs(tensor):
            shape = (rows, *tensor.shape[1:])
            if keras.backend.is_int_dtype(tensor.dtype):
                return rng.integers(0, 11, shape).astype(tensor.dtype)
            return rng.normal(size=shape).astype("float32")

        def targets(tensor):
            if tensor.shape[-1] == 1:
                return rng.normal(size=(rows, 1)).astype("float32")
            return rng.integers(0, tensor.shape[-1], rows)

        x, y = [inputs(t) for t in model.inputs], [targets(t) for t in model.outputs]
        return (x[0] if len(x) == 1 else x), (y[0] if len(y) == 1 else y)

    return data
