"""`rank_groups`: the figures are those of a calculation by hand, and the model stays as it is."""

import random

import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.engine import snapshot

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()


def linear():
    """Return two linear layers, whose gradients are easy to write down."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low", bias_initializer="glorot_normal"),
            layers.Dense(2, name="head", bias_initializer="glorot_normal"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def data(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4)).astype("float32"), rng.normal(size=(rows, 2))


def by_hand(model, batches):
    """Return relative gradient norms and ratios of signal to noise of both groups, by numpy."""
    w1, b1, w2, b2 = (keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights)
    found = []
    for x, y in batches:
        h = x @ w1 + b1
        d = 2 * (h @ w2 + b2 - y) / y.size
        found.append([x.T @ (d @ w2.T), (d @ w2.T).sum(0), h.T @ d, d.sum(0)])
    norms = [
        np.mean([together(g[n : n + 2]) / together(weights) for g in found])
        for n, weights in ((0, (w1, b1)), (2, (w2, b2)))
    ]
    ratios = []
    for n in range(4):
        stacked = np.stack([g[n] for g in found])
        ratios.append((stacked.mean(0) ** 2 / (stacked.var(0) + 1e-8)).ravel())
    both = [np.concatenate(ratios[:2]).mean(), np.concatenate(ratios[2:]).mean()]
    return norms, both


def together(arrays):
    return np.linalg.norm(np.concatenate([array.ravel() for array in arrays]))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=8):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, n):
        rows = slice(n * self.size, (n + 1) * self.size)
        return self.x[rows], self.y[rows]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_figures_are_those_of_a_calculation_by_hand(frozen):
    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    if frozen:
        kf.freeze(model, layers=["low"])
    ranking = kf.rank_groups(model, Batches(x, y))
    norms, ratios = by_hand(model, [Batches(x, y)[n] for n in range(5)])
    assert ranking.batches == 5
    assert [g.name for g in ranking.groups] == ["low", "head"]
    assert [g.is_pretrained for g in ranking.groups] == [True, False]
    for n, group in enumerate(ranking.groups):
        assert group.relative_gradient_norm == pytest.approx(norms[n], rel=1e-4)
        assert group.signal_to_noise == pytest.approx(ratios[n], rel=1e-3)


@pytest.mark.slow_on_jax
def test_arrays_are_drawn_from_all_over_and_the_same_each_time():
    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data(64)
    settings = {"batch_size": 8, "batches": 3}
    rows = np.random.default_rng(0).permutation(64)
    batches = [(x[p], y[p]) for p in np.split(rows[:24], 3)]
    first = kf.rank_groups(model, x, y, **settings)
    norms, _ = by_hand(model, batches)
    assert first.groups[0].relative_gradient_norm == pytest.approx(norms[0], rel=1e-4)
    assert kf.rank_groups(model, x, y, **settings) == first


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of tf.data")
def test_of_tf_data():
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y.astype("float32"))).batch(8)
    expected = kf.rank_groups(model, Batches(x, y), batches=3)
    assert kf.rank_groups(model, dataset, batches=3) == expected
    with_rest = kf.rank_groups(model, dataset.take(2), batches=30)
    assert with_rest.batches == 2


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_of_a_data_loader():
    import torch

    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y).float())
    loader = torch.utils.data.DataLoader(dataset, batch_size=8)
    assert kf.rank_groups(model, loader) == kf.rank_groups(model, Batches(x, y))
    state = torch.get_rng_state()
    kf.rank_groups(model, torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def network():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="low")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.4, seed=3)(x)
    x = layers.Dense(5, activation="relu", name="middle")(x)
    x = layers.Dropout(0.4)(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def test_nothing_changes():
    keras.utils.set_random_seed(1)
    model, (x, y) = network(), data()
    model.fit(x, y, epochs=1, verbose=0)
    values, state = snapshot.capture_all(model), random.getstate()
    drawn, metrics = np.random.get_state()[1].copy(), model.get_metrics_result()
    kf.rank_groups(model, x, y, batch_size=8)
    after = snapshot.capture_all(model)
    flat, others = keras.tree.flatten(values), keras.tree.flatten(after)
    assert all(np.array_equal(a, b) for a, b in zip(flat, others, strict=True))
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], drawn)
    assert {k: float(v) for k, v in model.get_metrics_result().items()} == {
        k: float(v) for k, v in metrics.items()
    }


@pytest.mark.slow_on_jax
def test_a_fit_after_it_is_as_without():
    def trained(ranks):
        keras.utils.set_random_seed(1)
        model, (x, y) = network(), data()
        if ranks:
            kf.rank_groups(model, x, y, batch_size=8)
        return model.fit(x, y, epochs=2, verbose=0).history["loss"]

    assert trained(True) == trained(False)


@pytest.mark.slow_on_jax
def test_masks_differ_from_batch_to_batch():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="low", use_bias=False)(inputs)
    x = layers.Dropout(0.5, seed=3)(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.compile("sgd", "mse")
    x, y = np.ones((64, 4), "float32"), np.ones((64, 2))
    ranking = kf.rank_groups(model, x, y, batch_size=4)
    # The same batch again and again: only the masks make its gradients differ.
    assert ranking.groups[0].signal_to_noise < 1e4


@pytest.mark.slow_on_jax
def test_a_bias_that_is_nearly_zero_does_not_decide():
    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    before = kf.rank_groups(model, x, y).groups[0].relative_gradient_norm
    model.layers[0].bias.assign(np.full(3, 1e-6))
    after = kf.rank_groups(model, x, y).groups[0].relative_gradient_norm
    assert after < 2 * before


@pytest.mark.slow_on_jax
def test_noise_of_one_batch_is_not_known():
    model, (x, y) = linear(), data()
    ranking = kf.rank_groups(model, x, y, batches=1)
    assert ranking.to_dict()["groups"][0]["signal_to_noise"] is None
    assert str(ranking).splitlines()[0].endswith("1 batch")
    assert ranking.ranked() == ("low",)
    with pytest.raises(ValueError, match="noise is of at least two batches"):
        ranking.top(1, by="signal_to_noise")


@pytest.mark.slow_on_jax
def test_a_list_of_targets():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, name="head")(layers.Dense(3, name="low")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, labels = data()[0], [n % 3 for n in range(40)]
    assert kf.rank_groups(model, x, labels) == kf.rank_groups(model, x, np.array(labels))


@pytest.mark.slow_on_jax
def test_zeros_and_normalization_are_left_out():
    model, (x, y) = network(), data()  # whose biases are zeros
    ranking = kf.rank_groups(model, x, y, batch_size=8)
    assert {g.name: g.params for g in ranking.groups} == {"low": 24, "middle": 30, "head": 10}


@pytest.mark.slow_on_jax
def test_what_lora_froze_is_left_out_and_so_are_its_zeros():
    model, (x, y) = linear(), data()
    model.get_layer("low").enable_lora(2)
    ranking = kf.rank_groups(model, x, y)
    assert ranking.groups[0].params == 4 * 2 + 3  # lora_a and the bias


@pytest.mark.slow_on_jax
def test_top_freezes_all_pretrained_groups_but_those():
    model = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(4, name=f"d{n}") for n in range(4))]
    )
    model.compile("sgd", "mse")
    x, _ = data()
    ranking = kf.rank_groups(model, x, x)
    best = ranking.ranked()
    assert sorted(best) == ["d0", "d1", "d2"]
    norms = {g.name: g.relative_gradient_norm for g in ranking.groups}
    assert [norms[name] for name in best] == sorted((norms[n] for n in best), reverse=True)
    for k in (1, 2, 3):
        kf.unfreeze(model, groups=["d0", "d1", "d2", "head"])
        kf.freeze(model, ranking.top(k))
        training = {layer.name for layer in model.layers if layer.trainable}
        assert training == {*best[:k], "d3"}


def test_top_by_the_other_criterion():
    rows = [("a", 1.0, 5.0), ("b", 2.0, 4.0), ("c", 3.0, 6.0), ("head", 9.0, 9.0)]
    groups = [kf.ranking.RankedGroup(n, 10, r, s, n != "head") for n, r, s in rows]
    ranking = kf.GroupRanking("net", 5, tuple(groups))
    assert ranking.ranked() == ("c", "b", "a")
    assert ranking.ranked("signal_to_noise") == ("c", "a", "b")
    assert ranking.top(1, by="signal_to_noise").groups == ("a", "b")
    with pytest.raises(ValueError, match="at most the 3 ranked groups"):
        ranking.top(4)
    with pytest.raises(ValueError, match="relative_gradient_norm"):
        ranking.ranked("loss")


def test_as_a_table():
    groups = [
        kf.ranking.RankedGroup("low", 1200, 0.0123, 1.5, True),
        kf.ranking.RankedGroup("norms", 0, float("nan"), float("nan"), True),
        kf.ranking.RankedGroup("top", 30, 0.5, 0.25, True),
        kf.ranking.RankedGroup("head", 10, 2.0, 3.0, False),
    ]
    lines = [line.split() for line in str(kf.GroupRanking("net", 5, tuple(groups))).splitlines()]
    assert lines[0] == ["net,", "5", "batches"]
    assert lines[-4:] == [
        ["2", "low", "1,200", "1.23e-02", "1.50"],
        ["-", "norms", "0", "-", "-"],
        ["1", "top", "30", "5.00e-01", "0.25"],
        ["new", "head", "10", "2.00e+00", "3.00"],
    ]


@pytest.mark.slow_on_jax
def test_half_precision_is_not_lost_in_zeros():
    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    half = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low", dtype="mixed_float16"),
            layers.Dense(2, name="head", dtype="mixed_float16"),
        ]
    )
    half.set_weights(model.get_weights())
    half.compile("sgd", "mse")
    pairs = zip(
        kf.rank_groups(half, Batches(x, y)).groups,
        kf.rank_groups(model, Batches(x, y)).groups,
        strict=True,
    )
    for low, full in pairs:
        assert low.relative_gradient_norm == pytest.approx(full.relative_gradient_norm, rel=0.02)


class Own(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


@pytest.mark.slow_on_jax
def test_what_is_refused():
    model, (x, y) = linear(), data()
    with pytest.raises(
        ValueError, match=r"be left out where x is a .*, which has the targets in it"
    ):
        kf.rank_groups(model, Batches(x, y), y)
    with pytest.raises(TypeError, match="that can be read again"):
        kf.rank_groups(model, ((x, y) for _ in range(3)))
    with pytest.raises(ValueError, match="at least one batch"):
        kf.rank_groups(model, x[:0], y[:0])
    with pytest.raises(ValueError, match=r"batch 1, whose gradient of .* is not"):
        kf.rank_groups(model, x * np.nan, y)
    with pytest.raises(ValueError, match="be compiled"):
        kf.rank_groups(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), x, y)
    own = Own(model.inputs, model.outputs)
    own.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Keras's own train_step"):
        kf.rank_groups(own, x, y)


@pytest.mark.slow_on_jax
def test_a_loss_of_its_own_is_the_one_that_counts():
    class Tripled(keras.Model):
        def compute_loss(self, *args, **settings):
            return 3.0 * super().compute_loss(*args, **settings)

    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    other = Tripled(model.inputs, model.outputs)
    other.compile("sgd", "mse")
    one, three = kf.rank_groups(model, x, y), kf.rank_groups(other, x, y)
    for a, b in zip(one.groups, three.groups, strict=True):
        assert b.relative_gradient_norm == pytest.approx(3 * a.relative_gradient_norm, rel=1e-5)


@pytest.mark.slow_on_jax
def test_sample_weights_count():
    keras.utils.set_random_seed(1)
    model, (x, y) = linear(), data()
    weights = np.full(len(x), 2.0)
    one = kf.rank_groups(model, x, y)
    two = kf.rank_groups(model, x, y, sample_weight=weights)
    assert two.groups[0].relative_gradient_norm == pytest.approx(
        2 * one.groups[0].relative_gradient_norm, rel=1e-5
    )


LOSSES = {
    "added by a layer": {"activity_regularizer": keras.regularizers.L2(3.0)},
    "of weights": {"kernel_regularizer": keras.regularizers.L2(0.5)},
}


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("arguments", LOSSES.values(), ids=LOSSES)
def test_losses_beside_the_compiled_one_count_also_where_layers_are_frozen(arguments, frozen):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low", use_bias=False, **arguments),
            layers.Dense(2, name="head", use_bias=False),
        ]
    )
    model.compile("sgd", "mse")
    x, y = data(8)
    w1, w2 = (keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights)
    gradient = x.T @ (2 * (x @ w1 @ w2 - y) / y.size @ w2.T)
    if "kernel_regularizer" in arguments:
        gradient += 2 * 0.5 * w1
    else:
        gradient += 2 * 3.0 * x.T @ (x @ w1) / len(x)
    if frozen:
        kf.freeze(model, layers=["low"])
    group = kf.rank_groups(model, x, y, batch_size=8).groups[0]
    expected = np.linalg.norm(gradient) / np.linalg.norm(w1)
    assert group.relative_gradient_norm == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow_on_jax
def test_a_model_with_added_losses_alone():
    class Far(layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(keras.ops.square(x)))
            return x

    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="low"), Far(), layers.Dense(1)]
    )
    model.compile("sgd")
    assert kf.rank_groups(model, data()[0]).groups[0].relative_gradient_norm > 0


DIVISION = {"low": ["one", "two"], "middle": ["three"], "top": ["head"]}


def three(names=("one", "two", "three")):
    keras.utils.set_random_seed(0)
    dense = [layers.Dense(4, "tanh", name=name) for name in names]
    model = keras.Sequential([keras.Input((4,)), *dense, layers.Dense(2, name="head")])
    model.compile("sgd", "mse")
    return model


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("names", [("low", "middle", "top"), ("one", "three", "head")])
def test_the_policy_goes_by_the_groups_that_were_ranked(names):
    division = dict(zip(names, DIVISION.values(), strict=True))
    model, (x, y) = three(), data()
    ranking = kf.rank_groups(model, x, y, groups=division)
    assert "division" not in ranking.to_dict()
    kf.freeze(model, ranking.top(1))
    trains = {layer.name: layer.trainable for layer in model.layers}
    first = ranking.ranked()[0]
    frozen = [
        name for group, own in division.items() if group not in (first, names[-1]) for name in own
    ]
    assert [name for name, does in trains.items() if not does] == frozen
