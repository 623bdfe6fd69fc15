"""Frozen means frozen, whatever the model, the policy, the schedule and the optimizer."""

import hypothesis
import keras
import numpy as np
import optimizer_table
import pytest
from hypothesis import strategies as st
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import schedules
from keras_freeze.engine import optimizer_state
from keras_freeze.model_picture import weights_of

pytestmark = pytest.mark.backend
LAYERS = ("dense", "wide", "norm", "dropout", "batch_norm")
policies = kf.policies


def build(kinds):
    make = {
        "dense": lambda name: keras.layers.Dense(4, activation="relu", name=name),
        "wide": lambda name: keras.layers.Dense(7, activation="tanh", name=name),
        "norm": lambda name: keras.layers.LayerNormalization(name=name),
        "dropout": lambda name: keras.layers.Dropout(0.3, name=name),
        "batch_norm": lambda name: keras.layers.BatchNormalization(name=name),
    }
    layers = [make[kind](f"layer{n}") for n, kind in enumerate(kinds)]
    head = keras.layers.Dense(3, activation="softmax", name="top")
    return as_if_trained(keras.Sequential([keras.Input((4,)), *layers, head]))


def simple_policies(count):
    names = st.sampled_from([f"layer{n}" for n in range(count)])
    return st.one_of(
        st.builds(policies.FreezeFirst, st.integers(1, count)),
        st.builds(policies.FreezeLayers, st.lists(names, min_size=1, max_size=3)),
        st.builds(policies.FreezeMatching, names.map("^{}$".format)),
        st.sampled_from(["kernel", "bias", "gamma"]).map(by_name),
    )


def by_name(name):
    return policies.FreezeWhere(lambda variable, layer: variable.name == name)


@st.composite
def plans(draw):
    kinds = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4))
    kinds = ["dense", *kinds]
    policy = st.recursive(
        simple_policies(len(kinds)),
        lambda inner: st.one_of(
            st.builds(lambda a, b: a | b, inner, inner),
            st.builds(lambda a, b: a & b, inner, inner),
        ),
        max_leaves=3,
    )
    phases = draw(st.dictionaries(st.integers(0, 2), policy, min_size=1, max_size=3))
    batch_norm = draw(st.sampled_from(["frozen", "follow", "statistics"]))
    rates = draw(st.sampled_from([None, 2.6]))
    rest = ~policies.FreezeMatching("^top$")  # so that something is left to train
    return kinds, {e: schedules.Phase(p & rest, rates, batch_norm) for e, p in phases.items()}


class CheckFrozen(keras.callbacks.Callback):
    """Compares every weight that is frozen in an epoch, bit by bit, over that epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        self.frozen = [w for w in weights_of(model) if self.is_frozen(w)]
        self.before = [optimizer_state.to_host(w.variable) for w in self.frozen]

    def is_frozen(self, weight):
        if weight.potentially_trainable:
            return not weight.variable.trainable
        return not weight.layer.trainable  # moving statistics

    def on_epoch_end(self, epoch, logs=None):
        assert self.model is not None  # brings the weights back on JAX
        for weight, old in zip(self.frozen, self.before, strict=True):
            new = optimizer_state.to_host(weight.variable)
            np.testing.assert_array_equal(new, old, err_msg=weight.variable.path)


@pytest.mark.slow_on_jax
# A plan may end with single variables frozen, which is said at the end of a fit.
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
@hypothesis.given(plan=plans(), optimizer=st.sampled_from(sorted(optimizer_table.ALL)))
def test_frozen_weights_stay_bit_equal(plan, optimizer):
    kinds, phases = plan
    keras.utils.set_random_seed(1)
    model = build(kinds)
    model.compile(optimizer_table.ALL[optimizer](), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.integers(0, 3, 8)
    scheduler = kf.FreezeScheduler(phases, verbose=0)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[scheduler, CheckFrozen()])
    selection = phases[max(phases)].policy().select(model)
    for weight in weights_of(model):
        if id(weight.variable) in selection.variables:
            assert not weight.variable.trainable
    assert model.trainable_variables
