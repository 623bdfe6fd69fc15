"""Trainings that share a library compute frozen layers once, and come out the same."""

import cached
import keras
import numpy as np
import pytest
from cached import dense_stack, on_tensorflow, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.features import Library, shared
from keras_freeze.prefix_cache.sharing import SharedCut


@pytest.fixture
def library():
    with shared(Library()) as one:
        yield one
    one.clear()


@pytest.fixture
def continued(monkeypatch):
    """Note what is computed from a shallower cut: True for each batch where it is."""
    noted, compute = [], SharedCut.compute

    def noting(self, *args):
        found = compute(self, *args)
        noted.append(found is not None)
        return found

    monkeypatch.setattr(SharedCut, "compute", noting)
    return noted


def masked():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True, name="low"),
            layers.Dense(6, name="middle"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def texts(rows=20):
    rng = np.random.default_rng(3)
    return rng.integers(0, 20, (rows, 6)).astype("int32"), rng.integers(0, 3, rows)


def frozen(build, depth, change=None):
    def make():
        model = build()
        kf.freeze(model, layers=["low", "middle"][:depth])
        if change:
            change(model)
        return model

    return make


def fit(build, data, **settings):
    """Fit with a cache; return the outcome and the cache's statistics."""
    cache = kf.PrefixCache(auto=False, verbose=0)
    return cached.fit(build, data, cache, epochs=2, **settings), cache.statistics


def plain(build, data):
    return cached.fit(build, data, epochs=2)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("build", "data"),
    [(dense_stack, vectors()), pytest.param(masked, texts(), marks=pytest.mark.slow)],
)
def test_the_same_cut_is_computed_once_and_a_deeper_one_starts_from_it(
    build, data, library, continued
):
    _, first = fit(frozen(build, 1), data)
    again, second = fit(frozen(build, 1), data)
    assert (first.misses, first.hits) == (20, 20)
    assert (second.misses, second.hits) == (0, 40)
    cached.assert_same(again, plain(frozen(build, 1), data))
    continued.clear()
    deeper, _ = fit(frozen(build, 2), data)
    assert any(continued)
    cached.assert_same(deeper, plain(frozen(build, 2), data))


@on_tensorflow
def test_what_is_below_the_shallower_cut_is_not_computed_again(library, monkeypatch):
    calls, call = [], layers.Dense.call

    def noted(self, inputs, training=None):
        calls.append(self.name)
        return call(self, inputs, training)

    monkeypatch.setattr(layers.Dense, "call", noted)
    eager = {"compile_options": {"run_eagerly": True}}

    def calls_of(depth, layer):
        calls.clear()
        fit(frozen(dense_stack, depth), vectors(), **eager)
        return calls.count(layer)

    whole = calls_of(1, "low")
    deeper = calls_of(2, "low")
    library.clear()
    # Two of the three batches of the first epoch are computed from the shallower cut.
    assert calls_of(2, "low") - deeper == 2
    assert whole > deeper


@pytest.mark.backend
def test_other_weights_share_nothing(library):
    def change(model):
        bias = model.get_layer("low").bias
        bias.assign(bias + 1.0)

    fit(frozen(dense_stack, 2), vectors())
    outcome, statistics = fit(frozen(dense_stack, 2, change), vectors())
    assert (statistics.misses, statistics.hits) == (20, 20)
    cached.assert_same(outcome, plain(frozen(dense_stack, 2, change), vectors()))


def test_weights_that_change_in_a_fit_leave_the_library_right(library):
    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                bias = self.model.get_layer("low").bias
                bias.assign(bias + 1.0)

    def trained(*callbacks):
        return cached.fit(frozen(dense_stack, 2), vectors(), Change(), *callbacks, epochs=3)

    cached.assert_same(trained(kf.PrefixCache(auto=False, verbose=0)), trained())
    after, _ = fit(frozen(dense_stack, 2), vectors())
    cached.assert_same(after, plain(frozen(dense_stack, 2), vectors()))


def test_limits_of_ones_own_are_kept(library, tmp_path):
    def statistics(**limits):
        cache = kf.PrefixCache(auto=False, verbose=0, **limits)
        cached.fit(frozen(dense_stack, 2), vectors(), cache, epochs=2)
        return cache.statistics

    own = {"max_bytes": 10**6, "directory": tmp_path}
    assert [statistics(**own).hits for _ in range(2)] == [20, 20]
    with shared(Library(**own)):
        assert [statistics(**own).hits for _ in range(2)] == [20, 40]


def test_a_cleared_library_holds_nothing():
    library = Library()
    shelf = library.shelf("batches", (b"name",), [False], [])
    shelf.store.put(["a"], [np.zeros((1, 2))])
    assert library.find("batches", (b"name",)) is shelf
    library.clear()
    assert library.find("batches", (b"name",)) is None and len(shelf.store) == 0


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize(
    ("application", "shallow", "deep"),
    [("VGG16", 2, 4), ("ResNet50", 2, 4), ("EfficientNetB0", 3, 6)],
)
def test_families_come_out_the_same_to_the_bit(application, shallow, deep, library, continued):
    def build():
        make = getattr(keras.applications, application)
        backbone = make(weights=None, include_top=False, input_shape=(64, 64, 3), pooling="avg")
        outputs = layers.Dense(3, activation="softmax", name="head")(backbone.output)
        return keras.Model(backbone.inputs, outputs)

    rng = np.random.default_rng(3)
    data = rng.normal(size=(16, 64, 64, 3)).astype("float32"), rng.integers(0, 3, 16)
    fit(cached.frozen(build, shallow), data)
    continued.clear()
    deeper, statistics = fit(cached.frozen(build, deep), data)
    # EfficientNet's dropout ends the prefix before either depth, so that it is the same one.
    assert any(continued) or statistics.misses == 0
    cached.assert_same(deeper, plain(cached.frozen(build, deep), data))
