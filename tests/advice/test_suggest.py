"""`suggest`: the four cases, and data whose answer is known by construction."""

import keras
import numpy as np
import pytest
from effects import changed, values
from keras import layers
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.advice.probes import Score
from keras_freeze.advice.suggest import similarity_of
from keras_freeze.advice.suggestion import ProbedGroup

NAMES = ("a", "b", "c")


def stack(count=4):
    """Return a model of so many pretrained groups and a head."""
    return as_if_trained(untrained_stack(count))


def untrained_stack(count=4):
    parts = [layers.Dense(8, "relu", name=f"block{n}") for n in range(1, count + 1)]
    return keras.Sequential([keras.Input((4,)), *parts, layers.Dense(3, name="top")], name="net")


@pytest.mark.parametrize(
    "samples, similarity, depth, is_small",
    [
        (300, "near", 2, True),
        (300, "far", 2, True),
        (30_000, "near", 2, False),
        (30_000, "far", 0, False),
        (2_999, "near", 2, True),  # under 1,000 of each of 3 classes
        (3_000, "near", 2, False),
    ],
)
def test_the_four_cases(samples, similarity, depth, is_small):
    found = kf.suggest(
        stack(8), n_samples=samples, n_classes=3, similarity=similarity, backbone="block"
    )
    assert (found.depth, found.is_small, found.similarity) == (depth, is_small, similarity)
    assert found.callback.schedule == {0: depth or None}
    about = {row.about for row in found.advice}
    assert {"freeze depth", "learning rate", "group rates", "clipping"} <= about
    assert ("weight decay" in about) is is_small
    assert all(row.reason and row.source for row in found.advice)


DIMENSIONS = 24


def _probed(depth, own, shuffled):
    return ProbedGroup(f"g{depth}", depth, Score(own, 0.03), Score(shuffled, 0.03))


def crafted(kind):
    """Return a model whose group `a` tells whether the first two inputs have the same sign.

    `b` and `c` pass that on; with `kind="far"` they add all up, which loses it.
    """
    inputs = keras.Input((DIMENSIONS,))
    x = inputs
    for name in NAMES:
        x = layers.Dense(8, "relu", name=name)(x)
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="head")(x), name="net")
    model.compile("sgd", "sparse_categorical_crossentropy")
    first = np.zeros((DIMENSIONS, 8))
    first[:2, :4] = [[1, -1, 1, -1], [1, -1, -1, 1]]
    model.get_layer("a").kernel.assign(first)
    others = np.eye(8) if kind == "near" else np.full((8, 8), 1 / 8)
    for name in ("b", "c"):
        model.get_layer(name).kernel.assign(others)
        model.get_layer(name).bias.assign(np.full(8, 0.01))
    return model


def samples(count=300):
    x = np.random.default_rng(1).normal(size=(count, DIMENSIONS)).astype("float32")
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["near", "far"])
def test_how_far_the_features_carry_is_measured(kind):
    model, (x, y) = crafted(kind), samples()
    found = kf.suggest(model, x, y, backbone="^[abc]$")
    assert (found.similarity, found.depth, found.is_small) == (kind, 1, True)
    assert [group.name for group in found.probes] == [*NAMES]
    told = [group.score.value > 0.85 for group in found.probes]
    assert told == ([True] * 3 if kind == "near" else [True, False, False])
    assert all(group.shuffled.value < 0.7 for group in found.probes)
    assert any(row.about == "another choice" for row in found.advice)


def test_labels_that_nothing_tells_are_said_to_be_so():
    x, _ = samples()
    labels = np.random.default_rng(2).integers(0, 2, len(x))
    found = kf.suggest(crafted("near"), x, labels, backbone="^[abc]$")
    assert (found.similarity, found.depth) == ("unclear", 1)
    assert "guessing" in found.advice[0].reason
    assert found.callback.rates == "default"


def test_where_pretraining_does_not_help_that_is_said():
    """Each group tells less than the one below, and shuffled weights as much as the best."""
    probes = [_probed(1, 0.60, 0.60), _probed(2, 0.55, 0.50), _probed(3, 0.40, 0.40)]
    assert similarity_of(probes, 0.25) == "none"
    rising = [_probed(1, 0.80, 0.90), _probed(2, 0.85, 0.90), _probed(3, 0.90, 0.90)]
    assert similarity_of(rising, 0.25) == "unclear"


@pytest.mark.parametrize(
    ("own", "shuffled", "expected"),
    [
        ([0.90, 0.60], [0.885, 0.60], "none"),
        ([0.90, 0.60], [0.87, 0.60], "far"),
        ([0.80, 0.79], [0.50, 0.50], "near"),
        ([0.82, 0.79], [0.50, 0.50], "far"),
    ],
)
def test_differences_that_nobody_would_notice_do_not_count(own, shuffled, expected):
    pairs = enumerate(zip(own, shuffled, strict=True), 1)
    probes = [ProbedGroup(f"g{n}", n, Score(a, 0.001), Score(b, 0.001)) for n, (a, b) in pairs]
    assert similarity_of(probes, 0.25) == expected


def test_each_score_has_its_error():
    model, (x, y) = crafted("far"), samples(64)
    found = kf.suggest(model, x, y, backbone="^[abc]$")
    listed = ", ".join(f"{p.name} {p.score} (shuffled {p.shuffled})" for p in found.probes)
    assert f"Linear probes, by accuracy: {listed}." in found.advice[0].reason
    assert str(Score(0.5, 0.25)) == "0.50 ± 0.25"


@pytest.mark.parametrize(
    ("loss", "last", "as_targets"),
    [
        ("sparse_categorical_crossentropy", 25, lambda y: y.astype("float32")),
        ("sparse_categorical_crossentropy", 25, lambda y: y[:, None].astype("float32")),
        ("categorical_crossentropy", 25, lambda y: np.eye(25)[y] * 0.9 + 0.1 / 25),
    ],
)
def test_what_the_loss_takes_for_classes_are_classes(loss, last, as_targets):
    parts = [layers.Dense(8, name="low"), layers.Dense(last, "softmax", name="top")]
    model = as_if_trained(keras.Sequential([keras.Input((4,)), *parts]))
    x, y = np.random.default_rng(0).normal(size=(1100, 4)), np.arange(1100) % 25
    model.compile("sgd", loss)
    found = kf.suggest(model, x, as_targets(y), backbone="low")
    assert (found.probes[0].score.measure, found.is_small) == ("accuracy", True)


def test_several_classes_a_sample_are_counted_too():
    parts = [layers.Dense(8, name="low"), layers.Dense(3, "sigmoid", name="top")]
    model = as_if_trained(keras.Sequential([keras.Input((4,)), *parts]))
    model.compile("sgd", "binary_crossentropy")
    x = np.random.default_rng(0).normal(size=(1100, 4))
    assert kf.suggest(model, x, (x[:, :3] > 0).astype(int), backbone="low").is_small


def test_images_that_are_not_prepared_are_said_first():
    backbone = keras.applications.VGG16(False, None, input_shape=(32, 32, 3))
    top = layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(backbone.output))
    model = as_if_trained(keras.Model(backbone.input, top))
    x = np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 3)).astype("float32")
    first = kf.suggest(model, x, np.arange(20) % 2, backbone=backbone).advice[0]
    assert (first.about, first.value) == (
        "preprocessing",
        "x = keras.applications.vgg16.preprocess_input(x)",
    )


def test_guessing_by_chance_is_no_knowledge():
    score = Score(0.34, 0.0335)  # 2.7 errors above guessing
    probes = [ProbedGroup("a", 1, score, Score(0.34, 0.03)), _probed(2, 0.25, 0.25)]
    assert similarity_of(probes, 0.25) == "unclear"


@pytest.mark.parametrize("given", [{"similarity": "near"}, {}])
def test_an_untrained_backbone_is_said_first_and_nothing_is_frozen(given):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    found = kf.suggest(untrained_stack(), x, np.arange(60) % 3, backbone="block", **given)
    assert (found.similarity, found.depth, found.probes) == ("untrained", 0, ())
    first, depth, *others = found.advice
    assert first.about == "pretrained weights"
    assert "load" in first.value
    assert depth.value == f"callback = {found.code}, which freezes nothing"
    assert (found.callback.schedule, found.callback.rates) == ({0: None}, None)
    assert not {"measure it", "group rates", "another choice"} & {row.about for row in others}
    by_rule = kf.suggest(untrained_stack(), n_samples=60, similarity="far", backbone="block")
    assert by_rule.similarity == "untrained"


@pytest.mark.filterwarnings("ignore:find_learning_rate. the loss of phase 0 still falls")
@pytest.mark.parametrize("backbone", ["^[abc]$", ["a", "b", "c"]])
def test_what_to_do_is_code_that_runs(backbone):
    model, (x, y) = crafted("near"), samples(64)
    found = kf.suggest(model, x, y, backbone=backbone)
    by_name = {row.about: row.value for row in found.advice}
    names = {"kf": kf, "keras": keras, "model": model, "x": x, "y": y, "rate": 0.001}
    for about in ("freeze depth", "another choice"):
        code = by_name[about].split(", which ")[0]
        exec(code, names)
        assert isinstance(names["callback"], kf.FreezeScheduler)
        assert names["callback"].backbone == found.callback.backbone
        model.fit(x, y, verbose=0, callbacks=[names["callback"]])
    exec(by_name["learning rate"], names)
    assert isinstance(eval(by_name["clipping"], names), keras.optimizers.AdamW)
    names["groups"] = {"low": ["a", "b"], "c": ["c"], "head": ["head"]}
    grouped = kf.suggest(model, x, y, groups=names["groups"])
    exec(f"callback = {grouped.code}", names)
    assert names["callback"].groups == grouped.callback.groups == names["groups"]
    exec(f"callback = {found.code}", names)
    assert names["callback"].schedule == found.callback.schedule
    assert names["callback"].rates == found.callback.rates


def test_whole_numbers_under_a_loss_of_numbers_are_no_classes():
    model = keras.Sequential(
        [keras.Input((3,)), *(layers.Dense(8, name=n) for n in "ab"), layers.Dense(1, name="top")]
    )
    as_if_trained(model).compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    y = np.round(20 * x @ [1.0, 2.0, -1.0]).astype(int)
    found = kf.suggest(model, x, y, backbone="^[ab]$")
    assert found.probes[0].score.value > 0.9  # R²; of as many classes few would be right


@pytest.mark.parametrize(
    ("loss", "measure"),
    [
        ("sparse_categorical_crossentropy", "accuracy"),
        (keras.losses.SparseCategoricalCrossentropy(), "accuracy"),
        (lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p) ** 2, "accuracy"),
        (keras.losses.Huber(), "R²"),
        ("mae", "R²"),
    ],
)
def test_the_measure_is_that_of_the_loss_also_of_a_model_without_a_graph(loss, measure):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.low = layers.Dense(8, activation="relu", name="low")
            self.top = layers.Dense(3, activation="softmax", name="top")

        def call(self, x):
            return self.top(self.low(x))

    model = Own()
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    model(x)
    as_if_trained(model).compile("sgd", loss)
    found = kf.suggest(model, x, np.arange(60) % 3, backbone="^low$")
    assert {probe.score.measure for probe in found.probes} == {measure}
    assert f"Linear probes, by {measure}:" in str(found).replace("\n      ", "")


@pytest.mark.backend
def test_nothing_changes():
    model, (x, y) = crafted("near"), samples(64)
    before, state = values(model), np.random.get_state()[1].copy()
    kf.suggest(model, x, y, backbone="^[abc]$")
    assert not changed(before, values(model))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_callback_trains_as_it_says():
    model, (x, y) = crafted("near"), samples(64)
    found = kf.suggest(model, x, y, backbone="^[abc]$")
    before = values(model)
    model.fit(x, y, verbose=0, callbacks=[found.callback])
    assert found.callback.report.phases  # it is the one that trained
    moved = {path.split("/")[-2] for path in changed(before, values(model))}
    assert moved == {"b", "c", "head"}


def test_a_dataset_is_counted_by_its_batches():
    tf = pytest.importorskip("tensorflow")
    x, y = samples(96)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    found = kf.suggest(crafted("near"), data, backbone="^[abc]$")
    assert found.similarity == "near"
    many = kf.suggest(crafted("near"), data.repeat(200), backbone="^[abc]$", n_classes=2)
    assert not many.is_small


def test_a_model_built_for_batches_of_a_size():
    inputs = keras.Input(batch_shape=(16, DIMENSIONS))
    model, (x, y) = crafted("near"), samples(200)  # eight are left over
    fixed = keras.Model(inputs, model.layers[-1](keras.Sequential(model.layers[1:-1])(inputs)))
    found = kf.suggest(fixed, x, y, backbone="^[abc]$")
    assert [group.score.value > 0.85 for group in found.probes] == [True] * 3


def test_images_and_sequences_are_pooled():
    images = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(3, 3, name="low"),
            layers.Conv2D(3, 3, name="high"),
            layers.Flatten(),
            layers.Dense(2, name="top"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(40, 8, 8, 2)).astype("float32")
    found = kf.suggest(as_if_trained(images), x, np.arange(40) % 2, backbone="low|high")
    assert [group.name for group in found.probes] == ["low", "high"]
    assert any(row.about == "augmentation" for row in found.advice)


def test_as_text_html_and_data():
    found = kf.suggest(stack(), n_samples=9, similarity="far", backbone="block")
    text = str(found)
    assert text.startswith("net: little data, far from the pretraining")
    assert max(map(len, text.splitlines())) <= 80
    assert "<table" in found._repr_html_()
    assert (found.to_dict()["depth"], found.to_dict()["code"]) == (1, found.code)
    assert found.code == 'kf.FreezeScheduler({0: 1}, rates="default", backbone="block")'


def test_no_more_is_read_than_it_says():
    x, y = samples(1800)
    asked = []

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            asked.append(index)
            rows = slice(600 * index, 600 * (index + 1))
            return x[rows], y[rows]

    first = keras.layers.Dense(8, "relu", name="block1")
    model = keras.Sequential([keras.Input((DIMENSIONS,)), first, layers.Dense(2, name="top")])
    score = kf.suggest(as_if_trained(model), Batches(), backbone="block").probes[0].score
    assert asked == [0, 1]
    assert score.error == pytest.approx((score.value * (1 - score.value) / 1024) ** 0.5)


def test_labels_that_the_loss_can_not_take_are_said_first():
    model, (x, y) = crafted("near"), samples()
    found = kf.suggest(model, x, y + 1, backbone="^[abc]$")
    assert found.advice[0].about == "labels"
    assert found.advice[0].value.startswith("y = y - 1")
    assert "another choice" not in [one.about for one in found.advice]  # no gradient can be had
    assert found.similarity == "near"


def test_the_first_batches_of_a_dataset_say_nothing_of_all_labels():
    tf = pytest.importorskip("tensorflow")
    model, (x, _) = crafted("near"), samples(2000)
    y = np.repeat([0, 1], 1000)  # in order, so that the first are of one class
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    assert "labels" not in [one.about for one in kf.suggest(model, data).advice]
    assert kf.suggest(model, x, 0 * y).advice[0].about == "labels"


def test_data_that_do_not_know_how_many_they_are():
    tf = pytest.importorskip("tensorflow")
    x, y = samples(96)
    data = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True).batch(32)
    with pytest.raises(ValueError, match=r"suggest\(n_samples=...\) must be given where the data"):
        kf.suggest(crafted("near"), data, similarity="near")
    assert kf.suggest(crafted("near"), data, n_samples=96).is_small


def test_all_labels_are_looked_at():
    model, (x, y) = crafted("near"), samples(1200)
    y[np.random.default_rng(0).permutation(len(y))[-1]] = 7  # of those that no probe sees
    assert kf.suggest(model, x, list(y), backbone="^[abc]$").advice[0].about == "labels"
