"""What JAX's compiler says of a step, and that the estimate ranks freeze depths as it does."""

import importlib
from pathlib import Path

import effects
import keras
import pytest
from scipy import stats

import keras_freeze as kf

pytestmark = pytest.mark.backend
IS_JAX = keras.backend.backend() == "jax"


def on_jax(test):
    return pytest.mark.jax_only(pytest.mark.skipif(not IS_JAX, reason="of JAX")(test))


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("memory_models")


def measured(model, batch_size=8):
    return kf.parameter_report(model, batch_size=batch_size, measured=True).memory.measured


@on_jax
@pytest.mark.parametrize(
    "name",
    ["MLP", *(pytest.param(n, marks=pytest.mark.slow) for n in ("VGG-like CNN", "LSTM stack"))],
)
def test_depths_rank_as_in_xla(name, models):
    """On six models and more cuts: benchmarks/memory.py."""
    case, ours, theirs = models.CASES[name], [], []
    for depth in models.cuts(case.build(4, 8), 4):
        model = case.build(4, 8)
        model.compile("adam", "sparse_categorical_crossentropy")
        if depth:
            kf.freeze(model, layers=models.weighted_layers(model)[:depth])
        memory = kf.parameter_report(model, batch_size=256, measured=True).memory
        ours.append(memory.total_bytes)
        theirs.append(memory.measured.total_bytes)
    assert len(set(theirs)) == len(theirs) >= 4
    assert stats.spearmanr(ours, theirs).statistic >= 0.9


@on_jax
def test_the_model_is_left_as_it_was(plain, data_for):
    model = effects.compiled(plain(), keras.optimizers.Adam())
    values, metrics = effects.values(model), [m.name for m in model.metrics]
    found = measured(model)
    assert found.total_bytes > 0
    assert not model.optimizer.built
    assert [m.name for m in model.metrics] == metrics
    assert effects.moved(values, model) == set()
    model.fit(*data_for(model), verbose=0)
    again = effects.values(model)
    assert measured(model).argument_bytes == found.argument_bytes
    assert model.optimizer.built
    assert effects.moved(again, model) == set()
    model.fit(*data_for(model), verbose=0)


@on_jax
def test_weights_and_state_go_in_and_come_out(plain):
    model = effects.compiled(plain(), keras.optimizers.Adam())
    memory = kf.parameter_report(model, batch_size=8, measured=True).memory
    held = memory.weight_bytes + memory.optimizer_bytes
    others = memory.measured.argument_bytes - held  # the batch, metrics, and seeds
    assert 0 < others < 1024
    assert memory.measured.shared_bytes <= memory.measured.output_bytes


@on_jax
def test_several_outputs_and_losses(multi_input):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    x = keras.layers.Concatenate()(list(inputs.values()))
    outputs = {"n": keras.layers.Dense(3, name="n")(x), "m": keras.layers.Dense(1, name="m")(x)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"n": "sparse_categorical_crossentropy", "m": "mse"})
    assert measured(model).temporary_bytes >= 0
    assert measured(effects.compiled(multi_input())).total_bytes > 0


@pytest.mark.skipif(IS_JAX, reason="of the other backends")
def test_other_backends_say_why_not(plain):
    with pytest.raises(ValueError, match=r"measured=True on the .* backend.*KERAS_BACKEND=jax"):
        measured(effects.compiled(plain()))


@on_jax
def test_what_can_not_be_compiled_is_said(plain):
    with pytest.raises(ValueError, match="not compiled"):
        measured(plain())
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Dense(2)], name="long")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"model 'long' \(the shape .* varies\)"):
        measured(model)

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own(name="own")
    own.build((None, 4))
    own.compile("sgd", "mse")
    with pytest.raises(ValueError, match="it has no graph"):
        measured(own)
