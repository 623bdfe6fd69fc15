"""`check`, and the lines that callbacks print: each kind of finding, and what is close to it."""

import importlib

import keras
import numpy as np
import pytest
from effects import changed, values
from families_of_images import MODELS
from keras import layers
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.callbacks import fit_findings

IMAGES = np.random.default_rng(0).uniform(0, 255, (12, 32, 32, 3)).astype("float32")
LABELS = np.arange(12) % 3
MODULES = {name: importlib.import_module(f"keras.applications.{name}") for name in MODELS}
PREPARED = keras.applications.vgg16.preprocess_input(IMAGES.copy())


def vgg(*, nested=True, before=(), rate=1e-4, weights_trained=True):
    """Return VGG16 with a new head, compiled; `before` stands between the input and it."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for layer in before:
        x = layer(x)
    if nested:
        backbone = keras.applications.VGG16(
            include_top=False, weights=None, input_shape=(32, 32, 3), name="mine"
        )
        features = backbone(x, training=False)
    else:
        backbone = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x)
        features = backbone.output
    if weights_trained:
        as_if_trained(backbone)
    pooled = layers.GlobalAveragePooling2D(name="pool")(features)
    outputs = layers.Dense(3, "softmax", name="classes")(pooled)
    model = keras.Model(inputs, outputs, name="net")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def planned(model, x=None, y=None):
    return kf.check(model, x, y, schedule=kf.GradualUnfreeze(), batch_size=32)


def flagged(model):
    """Check a model of `dense` by its flags."""
    return kf.check(model, backbone="low")


class TestPreprocessing:
    @pytest.mark.backend
    @pytest.mark.parametrize("nested", [True, False])
    def test_raw_images_are_found_and_prepared_ones_are_not(self, nested):
        model = vgg(nested=nested)
        (finding,) = planned(model, IMAGES, LABELS)
        assert finding.name == "preprocessing"
        assert "gets 0 to 255" in finding.what
        assert finding.cure == "x = keras.applications.vgg16.preprocess_input(x)"
        assert not planned(model, PREPARED, LABELS)

    @pytest.mark.parametrize("name", ["vgg16", "efficientnet", "resnet"])
    @pytest.mark.parametrize("scaled", [IMAGES / 255, IMAGES / 127.5 - 1], ids=["unit", "tf"])
    def test_the_cure_makes_pixels_of_scaled_images(self, name, scaled):
        backbone = MODELS[name](include_top=False, weights=None, input_shape=(32, 32, 3))
        outputs = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(backbone.output))
        model = keras.Model(backbone.input, outputs)

        def found(x):
            findings = kf.check(model, x, LABELS, backbone=backbone)
            return [one for one in findings if one.name == "preprocessing"]

        names = {"keras": keras, "x": scaled.copy()}
        exec(found(scaled)[0].cure.partition(", since")[0], names)
        assert not found(names["x"])
        np.testing.assert_allclose(names["x"], MODULES[name].preprocess_input(IMAGES.copy()), 1e-3)

    @pytest.mark.parametrize("scales", [layers.Rescaling(1 / 255), lambda x: x / 255.0])
    def test_where_the_model_scales_too_both_are_to_be_changed(self, scales):
        (finding,) = planned(vgg(before=[scales]), IMAGES, LABELS)
        assert finding.cure.startswith("leave out what scales images before the backbone, and give")
        names = {"keras": keras, "x": IMAGES.copy()}
        exec(finding.cure.partition("and give ")[2].partition(", with")[0], names)
        assert not planned(vgg(), names["x"], LABELS)

    @pytest.mark.hub
    def test_a_backbone_of_keras_hub_is_not_taken_for_one_of_keras_applications(self):
        hub = pytest.importorskip("keras_hub")
        backbone = hub.models.VGGBackbone(
            stackwise_num_repeats=[2, 2, 3, 3, 3],
            stackwise_num_filters=[64, 128, 256, 512, 512],
            image_shape=(32, 32, 3),
        )
        inputs = keras.Input((32, 32, 3))
        pooled = layers.GlobalAveragePooling2D()(as_if_trained(backbone)(inputs))
        model = keras.Model(inputs, layers.Dense(3, "softmax")(pooled))
        found = kf.check(model, IMAGES, LABELS, backbone=backbone)
        assert "preprocessing" not in found.names
        assert any(reason.startswith("preprocessing: ") for reason in found.skipped)

    def test_a_new_normalization_before_the_backbone_says_nothing_yet(self):
        assert planned(vgg(), IMAGES, LABELS).names == ("preprocessing",)
        assert planned(vgg(before=[layers.BatchNormalization()]), IMAGES, LABELS).names == ()

    @pytest.mark.parametrize("nested", [True, False])
    def test_what_counts_is_what_reaches_the_backbone(self, nested):
        """The model's own preprocessing stands between its inputs and the backbone."""
        model = vgg(nested=nested, before=[layers.Rescaling(1 / 255)])
        (finding,) = planned(model, IMAGES, LABELS)
        assert "gets 0 to 1" in finding.what
        mean = layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])
        model = vgg(nested=nested, before=[mean, layers.ZeroPadding2D(0)])
        assert not planned(model, IMAGES, LABELS)

    @pytest.mark.slow
    def test_one_rescaling_too_many_before_a_backbone_that_rescales(self):
        inputs = keras.Input((64, 64, 3))
        backbone = keras.applications.MobileNetV3Small(
            include_top=False, weights=None, input_shape=(64, 64, 3)
        )
        as_if_trained(backbone)
        cases = (layers.Identity(), ()), (layers.Rescaling(1 / 255), ("preprocessing",))
        for layer, names in cases:
            x = layers.GlobalAveragePooling2D()(backbone(layer(inputs)))
            model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
            model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
            images = np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)).astype("float32")
            assert planned(model, images, np.arange(8) % 3).names == names

    def test_a_dataset_is_read_by_its_first_batch(self):
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(6)
        assert kf.check(vgg(), data, schedule=kf.GradualUnfreeze()).names == ("preprocessing",)

    def test_numbers_that_are_not_finite(self):
        images = PREPARED.copy()
        images[:, 3] = np.nan
        assert planned(vgg(), images, LABELS).names == ("inputs",)

    def test_a_small_batch_that_the_model_is_built_for(self):
        inputs = keras.Input(batch_shape=(4, 32, 32, 3))
        backbone = keras.applications.VGG16(include_top=False, weights=None, input_tensor=inputs)
        as_if_trained(backbone)
        x = layers.GlobalAveragePooling2D()(backbone.output)
        model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        assert planned(model, IMAGES, LABELS).names == ("preprocessing",)


@pytest.mark.backend
def test_nothing_changes_and_nothing_is_drawn():
    model = vgg(before=[layers.GaussianNoise(0.1)])
    before = values(model)
    keras.utils.set_random_seed(1)
    drawn = np.asarray(keras.ops.convert_to_numpy(keras.random.normal((2,))))
    keras.utils.set_random_seed(1)
    kf.check(model, IMAGES, LABELS)
    again = np.asarray(keras.ops.convert_to_numpy(keras.random.normal((2,))))
    np.testing.assert_array_equal(again, drawn)
    assert not changed(before, values(model))


def dense(*, frozen=(), loss="sparse_categorical_crossentropy", units=3, activation="softmax", **k):
    """Return two pretrained layers and a new head, `frozen` by name, and compiled."""
    inputs = keras.Input((4,))
    low = layers.Dense(5, "relu", name="low")
    backbone = keras.Sequential([keras.Input((4,)), low], name="backbone")
    as_if_trained(backbone)
    x = layers.BatchNormalization(name="norm")(backbone(inputs))
    outputs = layers.Dense(units, activation, name="classes")(x)
    model = keras.Model(inputs, outputs, name="net")
    for name in frozen:
        (backbone if name == "backbone" else model.get_layer(name)).trainable = False
    model.compile(k.get("optimizer", keras.optimizers.Adam(1e-4)), loss)
    return model


@pytest.mark.parametrize(
    "schedule",
    [
        kf.GradualUnfreeze("auto", backbone="low"),
        kf.ProgressiveFreeze(backbone="low"),
        kf.FreezeScheduler({0: 1, 30: 0}, backbone="low"),
    ],
    ids=["auto", "progressive", "late"],
)
def test_a_schedule_needs_no_number_of_epochs(schedule):
    assert "untrained backbone" not in kf.check(dense(), schedule=schedule).names


def test_labels_without_a_class_of_zero_and_those_that_are_not_finite():
    model = dense(frozen=["backbone"], loss="binary_crossentropy", units=1, activation="sigmoid")
    y = np.array([1, 2, 1, 2])
    (finding,) = kf.check(model, np.ones((4, 4)), y)
    assert finding.cure == "y = (y > 1).astype(int)"
    model = dense(frozen=["backbone"])
    (finding,) = kf.check(model, np.ones((4, 4)), np.array([0, 1, np.nan, 2]))
    assert "NaN" in finding.what


class TestUnfitInputs:
    """Inputs that a model can't take are said to be so: `fit` would fail."""

    def two(self, *, as_dict=False):
        inputs = {name: keras.Input((size,), name=name) for name, size in (("b", 2), ("a", 3))}
        joined = layers.concatenate([*inputs.values()])
        model = keras.Model(inputs if as_dict else [*inputs.values()], layers.Dense(1)(joined))
        model.compile("sgd", "mse")
        return model

    def found(self, model, x):
        return [f.what for f in kf.check(model, x) if f.name == "inputs"]

    @pytest.mark.parametrize(
        "shape, fits",
        [((8, 8, 1), True), ((8, 8), True), ((8, 8, 3), False), ((4, 4, 1), False), ((64,), False)],
    )
    def test_shapes(self, shape, fits):
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2)])
        x = np.ones((6, *shape))
        said = self.found(model, x)
        assert (said == []) == fits
        if not fits:
            assert f"{(None, *shape)}" in said[0] and "(None, 8, 8, 1)" in said[0]
            with pytest.raises(ValueError):
                model.predict(x, verbose=0)
        else:
            model.predict(x, verbose=0)

    @pytest.mark.parametrize("as_dict", [False, True])
    def test_several(self, as_dict):
        model = self.two(as_dict=as_dict)
        a, b = np.ones((6, 3)), np.ones((6, 2))
        assert self.found(model, {"a": a, "b": b}) == []
        order = "a and b" if as_dict else "b and a"
        assert f"the model takes {order}" in self.found(model, {"a": a, "c": b})[0]
        assert "has the shape" in self.found(model, {"a": b, "b": a})[0]
        if not as_dict:
            assert self.found(model, [b, a]) == []
            assert "1 array, and the model takes 2" in self.found(model, a)[0]

    def test_more_than_a_single_input_takes_from_a_dict(self):
        """Keras takes the first by name, whatever the key of the input, and warns."""
        needed = keras.Input((2,), name="x")
        model = keras.Model({"x": needed}, layers.Dense(1)(needed))
        x = {"x": np.ones((4, 2)), "id": np.arange(4)}
        assert self.found(model, x) == ["The data are x and id, and the model takes x"]
        with (
            pytest.warns(UserWarning, match="structure of `inputs`"),
            pytest.raises(ValueError, match="Invalid input shape"),
        ):
            model.predict(x, verbose=0)

    @pytest.mark.filterwarnings("ignore:The structure of `inputs`")
    def test_keras_goes_by_the_order_of_a_dict_with_more_than_a_model_takes(self):
        left, right = (keras.Input((2,), name=name) for name in ("left", "right"))
        outputs = layers.Dense(1, use_bias=False, kernel_initializer="ones")(left - right)
        model = keras.Model({"left": left, "right": right}, outputs)
        x = {name: np.full((4, 2), n) for n, name in enumerate(("aux", "left", "right"))}
        assert (model.predict(x, verbose=0) == -2).all()  # aux - left
        names = {"x": {**x, "right": x["right"] + 5}}
        exec(kf.check(model, names["x"]).findings[0].cure, names)
        assert (model.predict(names["x"], verbose=0) == -12).all()
        assert kf.check(model, names["x"]).names == ()
        by_list = keras.Model([left, right], outputs)
        assert kf.check(by_list, x).names == ()
        assert (by_list.predict(x, verbose=0) == -2).all()

    def test_a_dict_for_a_single_input_needs_its_name(self):
        inputs = keras.Input((2,), name="image")
        model = keras.Model(inputs, layers.Dense(1)(inputs))
        assert self.found(model, {"image": np.ones((4, 2))}) == []
        assert self.found(model, {"x": np.ones((4, 2))}) == [
            "The data are x, and the model takes image"
        ]

    def test_unknown_lengths_and_optional_inputs(self):
        model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(2), layers.Dense(1)])
        assert self.found(model, np.ones((4, 7, 3))) == []
        needed, other = keras.Input((2,), name="x"), keras.Input((2,), name="o", optional=True)
        model = keras.Model({"x": needed, "o": other}, layers.Dense(1)(needed))
        assert self.found(model, {"x": np.ones((4, 2))}) == []


class TestStructure:
    def test_an_untrained_backbone(self):
        assert "untrained backbone" in planned(vgg(weights_trained=False)).names
        assert "untrained backbone" not in planned(vgg()).names

    def test_nothing_frozen_under_a_new_head(self):
        model = dense()
        assert flagged(model).names == ("nothing frozen",)
        as_if_trained(model)
        assert flagged(model).names == ()

    def test_everything_frozen(self):
        model = dense(frozen=["backbone", "norm", "classes"])
        assert flagged(model).names == ("everything frozen",)
        assert kf.check(dense(frozen=["backbone"])).names == ()

    def test_new_layers_that_are_frozen(self):
        (finding,) = flagged(dense(frozen=["backbone", "norm"]))
        assert (finding.name, "norm" in finding.what) == ("new layers frozen", True)

    @pytest.mark.parametrize("callback", [None, kf.FreezeScheduler({0: None}, backbone="low")])
    def test_flags_that_were_changed_after_the_train_step_was_made(self, callback):
        model, name = dense(frozen=["backbone"]), "flags changed after compile"
        model.get_layer("norm").trainable = False
        model.get_layer("norm").trainable = True
        assert name not in flagged(model).names  # no step has been made
        callbacks = [] if callback is None else [callback]
        model.fit(np.ones((4, 4)), SPARSE, verbose=0, callbacks=callbacks)
        assert name not in flagged(model).names
        model.get_layer("norm").trainable = False
        (finding,) = [found for found in flagged(model) if found.name == name]
        assert "norm" in finding.what
        kf.recompile(model)
        assert name not in flagged(model).names

    def test_rates_for_the_wrong_part(self):
        model = dense(optimizer=keras.optimizers.Adam(1e-3))
        low = model.get_layer("backbone").get_layer("low")
        low.kernel.assign(np.full(low.kernel.shape, 0.02))
        assert "large rate" in flagged(model).names
        gradual = kf.GradualUnfreeze(backbone="low")  # which gives it a lower one
        assert "large rate" not in kf.check(model, schedule=gradual).names
        everything = kf.FreezeScheduler({0: None}, backbone="low")
        assert "large rate" in kf.check(model, schedule=everything).names
        model.optimizer.learning_rate = 1e-1  # too high divided by 2.6 as well
        (finding,) = [f for f in kf.check(model, schedule=gradual) if f.name == "large rate"]
        assert "low" in finding.what and "train at 0.0385" in finding.what
        assert "from 0.0012 on" in finding.what  # 6 % of 0.02
        assert finding.cure == "model.optimizer.learning_rate = 0.003"
        exec(finding.cure)
        assert "large rate" not in kf.check(model, schedule=gradual).names
        model.optimizer.learning_rate = 1e-3  # the least that is large, however small the weights
        assert "from 0.001 on" in str([*flagged(model)][-1])
        sgd = dense(optimizer=keras.optimizers.SGD(0.2))  # whose steps are no part of the weights
        low = sgd.get_layer("backbone").get_layer("low")
        low.kernel.assign(np.full(low.kernel.shape, 10.0))
        assert "large rate" in flagged(sgd).names
        # The same rate moves large weights by a small part of them.
        model = dense(optimizer=keras.optimizers.Adam(1e-2))
        for size, is_large in ((0.2, True), (0.4, False)):
            low = model.get_layer("backbone").get_layer("low")
            low.kernel.assign(np.full(low.kernel.shape, size))
            assert ("large rate" in flagged(model).names) == is_large
        slow = dense(frozen=["backbone"], optimizer=keras.optimizers.Adam(1e-5))
        assert flagged(slow).names == ("small rate",)
        sgd = dense(frozen=["backbone"], optimizer=keras.optimizers.SGD(1e-3))
        assert flagged(sgd).names == ()

    @pytest.mark.parametrize("is_planned", [True, False])
    def test_group_rates_are_advised_where_they_are_enough(self, is_planned):
        code = 'rates="default"' if is_planned else "kf.GradualUnfreeze()"
        schedule = kf.FreezeScheduler({0: None}, backbone="low") if is_planned else None
        model = dense()
        low = model.get_layer("backbone").get_layer("low")
        low.kernel.assign(np.full(low.kernel.shape, 0.02))
        for rate, are_enough in ((0.002, True), (0.1, False)):
            model.optimizer.learning_rate = rate
            found = flagged(model) if schedule is None else kf.check(model, schedule=schedule)
            (finding,) = [one for one in found if one.name == "large rate"]
            assert finding.cure.startswith(f"{code}, which") == are_enough
            gradual = kf.GradualUnfreeze(backbone="low")
            assert ("large rate" not in kf.check(model, schedule=gradual).names) == are_enough

    def test_batch_norm_on_small_batches(self, nested):
        model = nested()
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        schedule = kf.GradualUnfreeze(batch_norm="train")
        name = "BatchNormalization in small batches"
        assert name in kf.check(model, schedule=schedule, batch_size=7).names
        assert name not in kf.check(model, schedule=schedule, batch_size=8).names
        assert name not in kf.check(model, schedule=kf.GradualUnfreeze(), batch_size=2).names
        assert name in kf.check(model, batch_size=2).names  # by the flags

    def test_dropout_in_the_frozen_part(self):
        def model(dropout):
            inputs = keras.Input((4,))
            parts = layers.Dense(4, name="low"), dropout, layers.Dense(4, name="high")
            backbone = keras.Sequential([keras.Input((4,)), *parts], name="backbone")
            as_if_trained(backbone)
            net = keras.Model(inputs, layers.Dense(3, "softmax", name="top")(backbone(inputs)))
            net.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
            return net

        name = "Dropout in the frozen part"
        above = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(4, name="low"),
                layers.Dropout(0.2),  # of the head, although it stands in the backbone's group
                layers.Dense(3, "softmax", name="top"),
            ]
        )
        above.compile("adam", "sparse_categorical_crossentropy")
        assert kf.check(as_if_trained(above), schedule=kf.GradualUnfreeze()).names == ()
        assert planned(model(layers.Dropout(0.2, name="drop"))).names == (name,)
        assert planned(model(layers.Dropout(0.0))).names == ()
        # Stochastic depth, as EfficientNet has it.
        assert planned(model(layers.Dropout(0.2, noise_shape=(None, 1)))).names == ()
        unfrozen = kf.FreezeScheduler({0: None}, rates="default")
        dropping = model(layers.Dropout(0.2))
        assert kf.check(dropping, schedule=unfrozen).names == ()

    def test_float16(self):
        keras.config.set_dtype_policy("mixed_float16")
        model = dense(frozen=["backbone"])
        assert kf.check(model).names == ()
        inner = model.optimizer.inner_optimizer
        model.compile(inner, "sparse_categorical_crossentropy", auto_scale_loss=False)
        assert kf.check(model).names == ("float16 without loss scaling",)
        keras.config.set_dtype_policy("float16")
        assert "float16 weights" in kf.check(dense(frozen=["backbone"])).names


SPARSE, COLUMNS = np.array([0, 2, 1, 0]), np.eye(3)[[0, 2, 1, 0]]
CATEGORICAL, BINARY = "categorical_crossentropy", "binary_crossentropy"
SOFTMAX = {"units": 3, "activation": "softmax"}
SIGMOID = {"units": 1, "activation": "sigmoid"}
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HOLES = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
# The model's last layer and loss, the labels, and what of them does not fit.
TASKS = {
    "class numbers": (SOFTMAX, "sparse_categorical_crossentropy", SPARSE, ()),
    "class numbers in a column": (SOFTMAX, LOGITS.name, SPARSE[:, None], ()),
    "columns for class numbers": (SOFTMAX, LOGITS.name, COLUMNS, ("labels",)),
    "classes from 1": (SOFTMAX, LOGITS.name, SPARSE + 1, ("labels",)),
    "classes below 0": (SOFTMAX, LOGITS.name, SPARSE - 1, ("labels",)),
    "class numbers with a fraction": (SOFTMAX, LOGITS.name, SPARSE + 0.5, ("labels",)),
    "an ignored class": (SOFTMAX, HOLES, np.array([0, 255, 2, 1]), ()),
    "columns": (SOFTMAX, CATEGORICAL, COLUMNS, ()),
    "smoothed columns": (SOFTMAX, CATEGORICAL, COLUMNS * 0.9 + 0.1 / 3, ()),
    "class numbers for columns": (SOFTMAX, CATEGORICAL, SPARSE, ("labels",)),
    "several classes a sample": (SOFTMAX, CATEGORICAL, COLUMNS + np.array([0, 0, 1]), ("labels",)),
    "two classes": (SIGMOID, BINARY, SPARSE > 0, ()),
    "two classes in float": (SIGMOID, BINARY, np.array([0.0, 0.3, 1.0]), ()),
    "three classes for two": (SIGMOID, BINARY, SPARSE, ("labels",)),
    "labels that are not finite": (SIGMOID, BINARY, np.array([0.0, np.nan]), ("labels",)),
    "logits after a softmax": (SOFTMAX, LOGITS, SPARSE, ("loss and last layer",)),
    "logits": ({"units": 3, "activation": None}, LOGITS, SPARSE, ()),
    "no probabilities": (
        {"units": 3, "activation": None},
        "sparse_categorical_crossentropy",
        SPARSE,
        ("loss and last layer",),
    ),
    "softmax of one": (
        {"units": 1, "activation": "softmax"},
        BINARY,
        SPARSE > 0,
        ("loss and last layer",),
    ),
    "another loss": ({"units": 1, "activation": None}, "mse", np.array([-3.0, 7.5]), ()),
    "padding without a class": (SOFTMAX, CATEGORICAL, COLUMNS * [[1], [0], [1], [1]], ()),
    "large integers": (SOFTMAX, LOGITS.name, np.array([0, 2], "uint8"), ()),
    "strings": (SOFTMAX, LOGITS.name, np.array(["a", "b"]), ("labels",)),
    "strings as objects": (SOFTMAX, LOGITS.name, np.array(["a", "b"], object), ("labels",)),
    "other objects": (SOFTMAX, LOGITS.name, np.array([0, 1], object), ("labels",)),
    "zeros and ones for a softmax of one": (
        {"units": 1, "activation": "softmax"},
        "mse",
        SPARSE > 0,
        ("loss and last layer",),
    ),
    "columns of one": (SIGMOID, CATEGORICAL, SPARSE > 0, ("loss and last layer",)),
    "columns from -1": (SOFTMAX, CATEGORICAL, COLUMNS * 2 - 1, ("labels",)),
    "several classes after a softmax": (
        SOFTMAX,
        BINARY,
        COLUMNS + np.array([0, 1, 0]),
        ("labels",),
    ),
    "columns by two classes each": (SOFTMAX, BINARY, COLUMNS, ()),
    "text for numbers": ({"units": 1, "activation": None}, "mse", np.array(["1"]), ("labels",)),
    "NaN for numbers": ({"units": 1, "activation": None}, "mae", np.array([np.nan]), ("labels",)),
    "NaN for a loss of ones own": (
        {"units": 1, "activation": None},
        lambda y, p: keras.ops.mean(keras.ops.where(keras.ops.isnan(y), 0.0, y - p)),
        np.array([np.nan, 1.0]),
        (),
    ),
    "one class": (SOFTMAX, LOGITS.name, np.ones(20, int), ("labels",)),
    "one class in columns": (SOFTMAX, CATEGORICAL, np.eye(3)[np.ones(20, int)], ("labels",)),
    "one class of two": (SIGMOID, BINARY, np.ones((20, 1)), ("labels",)),
    "one of another class": (SOFTMAX, LOGITS.name, np.array([1] * 19 + [0]), ()),
    "few of one class": (SOFTMAX, LOGITS.name, np.ones(19, int), ()),
}


@pytest.mark.parametrize("case", TASKS)
def test_labels_loss_and_last_layer(case):
    last, loss, labels, names = TASKS[case]
    model = dense(frozen=["backbone"], loss=loss, **last)
    x = np.random.default_rng(0).normal(size=(len(labels), 4))
    assert kf.check(model, x, labels).names == names


# Labels for three classes, the loss, and the labels after the cure.
CURED = {
    "minus one is no class": (LOGITS.name, [-1, 0, 1, 2], [-1, 0, 1, 2]),
    "three classes around 0": (LOGITS.name, [-1, 0, 1, 0], [0, 1, 2, 1]),
    "255 is no class": (LOGITS.name, [0, 1, 255, 0], [0, 1, 255, 0]),
    "a mask of 0 and 255": (LOGITS.name, [0, 255, 255, 0], [0, 1, 1, 0]),
    "from 1": (LOGITS.name, [1, 2, 3, 1], [0, 1, 2, 0]),
    "numbers far apart": (LOGITS.name, [10, 30, 20, 10], [0, 2, 1, 0]),
    "columns of -1 and 1": (CATEGORICAL, [[1, -1, -1], [-1, 1, -1]], [[1, 0, 0], [0, 1, 0]]),
    "None": (LOGITS.name, np.array([0, None, 2, 1], object), [0, 2, 1]),
    "NaN": (LOGITS.name, [0.0, np.nan, 2.0, 1.0], [0, 2, 1]),
    "a column with NaN": (LOGITS.name, [[0.0], [np.nan], [2.0]], [[0], [2]]),
}


@pytest.mark.parametrize("case", CURED)
def test_the_cure_for_labels_cures(case):
    loss, given, expected = CURED[case]
    model, y = dense(frozen=["backbone"], loss=loss), np.asarray(given)
    names = {"np": np, "keras": keras, "y": y, "x": np.eye(len(y), 4)}
    (found,) = kf.check(model, names["x"], y)
    exec(found.cure.partition(", since")[0], names)
    np.testing.assert_array_equal(names["y"], expected)
    if "loss" in names:
        model.compile("sgd", names["loss"])
    assert kf.check(model, names["x"], names["y"]).names == ()


@pytest.mark.parametrize(
    ("loss", "last", "y", "cure"),
    [
        (LOGITS.name, SOFTMAX, [0, 1, 2, 3], "a last layer of 4 units"),
        (LOGITS.name, SOFTMAX, [-3, 0, 1, 2, 4], "return_inverse=True)[1], with a last layer of 5"),
        (LOGITS.name, SOFTMAX, [0.3, 1.7, 2.2, -0.4], 'loss="mse"'),
        (LOGITS, {"units": 3, "activation": None}, [0, 1, 2, 255], "255, from_logits=True)"),
        (BINARY, SIGMOID, [0, 1, 2], "a last layer of 3 units with activation"),
        (BINARY, SIGMOID, [0, 1, 7], "y = np.unique(y, return_inverse=True)[1], a last layer of 3"),
        (BINARY, SIGMOID, [-1, 1, 1], "y = (y > -1).astype(int)"),
        (BINARY, SIGMOID, [0.5, 7.1, 3.2], 'loss="mse"'),
        (BINARY, SOFTMAX, [[1, 1, 0], [0, 1, 0]], 'activation="sigmoid"'),
    ],
)
def test_other_cures_for_labels(loss, last, y, cure):
    model = dense(frozen=["backbone"], loss=loss, **last)
    (found,) = kf.check(model, np.eye(len(y), 4), np.array(y))
    assert cure in found.cure


def test_ragged_labels_are_named():
    y = np.empty(2, object)
    y[:] = [[0, 1], [2]]
    (found,) = kf.check(dense(frozen=["backbone"]), np.eye(2, 4), y)
    assert "objects of Python (list)" in found.what
    assert "pad_sequences" in found.cure


@pytest.mark.parametrize("y", [np.array([b"cat", b"dog"]), np.array(["cat", "dog"], object)])
def test_text_is_shown_as_it_is_written(y):
    (found,) = kf.check(dense(frozen=["backbone"]), np.eye(2, 4), y)
    assert "such as 'cat'" in found.what


def test_labels_in_a_list_are_no_array_for_fit():
    model, x = dense(frozen=["backbone"]), np.eye(3, 4)
    (found,) = kf.check(model, x, [0, 1, 2])
    assert found.cure == "y = np.array(y)"
    with pytest.raises(ValueError, match="Unrecognized data type"):
        model.fit(x, [0, 1, 2], verbose=0)
    assert kf.check(model, x, [np.array([1, 2, 3])]).names == ("labels",)  # a list of one array
    assert kf.check(model, x, [np.array([0, 1, 2])]).names == ()


@pytest.mark.backend
def test_text_in_a_dataset_is_found_on_every_backend():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((np.eye(8, 4), ["a", "b"] * 4)).batch(8)
    (found,) = kf.check(dense(frozen=["backbone"]), data)
    assert "such as 'a'" in found.what


@pytest.mark.backend
@pytest.mark.parametrize("x", [np.full((4, 4), "a"), np.ones((4, 4)).astype(object)])
def test_inputs_that_are_no_numbers_are_found(x):
    found = kf.check(dense(frozen=["backbone"]), x, np.arange(4) % 3)
    assert found.names == ("inputs",)
    assert "the model takes numbers" in next(iter(found)).what
    assert "preprocessing and token numbers: the inputs are no numbers" in found.skipped


def test_a_model_may_take_text():
    lookup = layers.TextVectorization(output_sequence_length=3, vocabulary=["cat", "dog"])
    parts = [keras.Input((), dtype="string"), lookup, layers.Embedding(4, 2), layers.Flatten()]
    model = keras.Sequential([*parts, layers.Dense(2, "softmax")])
    model.compile("sgd", LOGITS.name)
    assert kf.check(model, np.array(["cat", "dog"]), np.array([0, 1])).names == ()


@pytest.mark.backend
def test_tokens_that_are_not_finite():
    tokens = keras.Sequential([keras.Input((2,)), layers.Embedding(9, 2), layers.Flatten()])
    (found,) = kf.check(tokens, np.full((4, 2), np.nan))
    assert "NaN" in found.what


def test_a_sample_without_an_axis_for_batches():
    tf = pytest.importorskip("tensorflow")
    model = keras.Sequential([keras.Input((6, 3)), layers.Flatten(), layers.Dense(2)])
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 6, 3)), np.ones(8)))
    (found,) = kf.check(model, data)
    assert "that of a single sample" in found.what
    assert "dataset.batch(32)" in found.cure
    assert kf.check(model, data.batch(4)).names == ()
    tokens = keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(9, 2)])
    assert kf.check(tokens, np.ones((4, 1), "int32")).names == ()  # a token each


def test_what_a_list_holds_is_not_listed():
    with pytest.raises(ValueError, match=r"Received: float, ndarray\. ") as raised:
        kf.check(dense(frozen=["backbone"]), np.ones((90, 4)).tolist(), np.ones(90))
    assert len(str(raised.value)) < 200


def test_a_rate_by_a_schedule_is_not_checked_and_that_is_said():
    model = dense(frozen=["backbone"])
    text = "learning rates: the model is not compiled with one number as its rate"
    assert text not in kf.check(model).skipped
    rate = keras.optimizers.schedules.CosineDecay(1.0, 100)
    model.compile(keras.optimizers.Adam(rate), LOGITS.name)
    assert text in kf.check(model).skipped


@pytest.mark.backend
@pytest.mark.parametrize("y", [["cat", "dog", "cat"], np.array([2, 0, 2], object)])
def test_the_cure_for_labels_that_are_no_numbers_works(y):
    model, names = dense(frozen=["backbone"]), {"np": np, "y": y}
    (found,) = kf.check(model, np.ones((3, 4)), names["y"])
    exec(found.cure, names)
    assert kf.check(model, np.ones((3, 4)), names["y"]).names == ()


def test_labels_of_several_outputs_are_counted():
    model = dense(frozen=["backbone"])
    with pytest.raises(ValueError, match="must have a target for each sample"):
        kf.check(model, np.ones((3, 4)), {"a": np.ones(2)})


def test_a_batch_of_one_class_says_nothing_of_all_labels():
    tf = pytest.importorskip("tensorflow")
    x, y = np.random.default_rng(0).normal(size=(64, 4)), np.repeat([0, 1], 32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    assert kf.check(dense(frozen=["backbone"]), data).names == ()


@pytest.mark.parametrize("rows", [19, 20, 5000])
@pytest.mark.parametrize("row", [None, 0, -1])
def test_samples_that_are_all_the_same(rows, row):
    x = np.ones((rows, 4), "float32")
    if row is not None:
        x[row, 3] = 2
    names = kf.check(dense(frozen=["backbone"]), x, np.arange(rows) % 3).names
    assert names == (("inputs",) if rows >= 20 and row is None else ())


def test_of_several_inputs_one_may_be_the_same():
    inputs = [keras.Input((2,)), keras.Input((2,))]
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(inputs)))
    same, other = np.ones((40, 2)), np.random.default_rng(0).normal(size=(40, 2))
    assert kf.check(model, [same, other]).names == ()
    (found,) = kf.check(model, [same, same])
    assert found.what.startswith("All 40 samples are the same")


@pytest.mark.parametrize("as_dict", [True, False])
def test_token_numbers_in_a_nested_encoder(as_dict):
    ids = keras.Input((6,), dtype="int32", name="ids")
    states = layers.Embedding(11, 4, name="embedding")(ids)
    encoder = keras.Model({"ids": ids} if as_dict else ids, states, name="encoder")
    outer = keras.Input((6,), dtype="int32", name="ids")
    states = encoder({"ids": outer} if as_dict else outer)
    outputs = layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(states))
    model = keras.Model({"ids": outer} if as_dict else outer, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    tokens = np.arange(24).reshape(4, 6) % 11
    for x, found in ((tokens, False), (tokens + 1, True)):
        names = kf.check(model, {"ids": x} if as_dict else x, np.zeros(4)).names
        assert ("token numbers" in names) is found


@pytest.mark.backend
def test_token_numbers_that_an_embedding_lacks(recurrent):
    model = recurrent()
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    tokens = np.arange(24).reshape(4, 6) % 11
    names = kf.check(model, tokens, np.zeros(4)).names
    assert "token numbers" not in names
    assert "token numbers" in kf.check(model, tokens + 1, np.zeros(4)).names


def test_an_activation_that_only_changes_the_dtype_says_nothing():
    inputs = keras.Input((4,))
    outputs = layers.Activation("linear", dtype="float32")(layers.Dense(3, "softmax")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert "loss and last layer" not in kf.check(model).names


def test_a_loss_of_ones_own_is_not_judged_by_its_name():
    def sparse_categorical_crossentropy(y, logits):
        return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)

    model = dense(loss=sparse_categorical_crossentropy, activation=None)
    assert "loss and last layer" not in kf.check(model).names


def test_a_schedule_of_the_rate_is_not_judged_by_its_first_step():
    warmup = keras.optimizers.schedules.CosineDecay(1e-6, 100, warmup_target=1e-3, warmup_steps=9)
    model = dense(frozen=["backbone"], optimizer=keras.optimizers.Adam(warmup))
    assert flagged(model).names == ()


def test_the_cure_for_dropout_in_a_nested_backbone_finds_the_layer():
    parts = layers.Dense(4, name="low"), layers.Dropout(0.2, name="d"), layers.Dense(4, name="high")
    backbone = as_if_trained(keras.Sequential([keras.Input((4,)), *parts], name="backbone"))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="top")(backbone(inputs)))
    model.compile("adam", "sparse_categorical_crossentropy")
    (finding,) = planned(model)
    code = finding.cure.partition(".rate")[0]
    assert eval(code, {"model": model}) is backbone.get_layer("d")


def test_what_can_not_be_checked_is_said():
    model = dense()
    assert "pass x and y" in str(kf.check(model))
    assert "pass y" in str(kf.check(model, np.ones((4, 4))))
    raw = keras.Sequential([keras.Input((4,)), layers.Dense(1)], name="raw")
    assert "not compiled" in str(kf.check(raw))


def test_what_depends_on_what_is_pretrained_is_said_where_that_is_not_known():
    model = dense()
    assert any("pass backbone=" in reason for reason in kf.check(model).skipped)
    assert not any("pass backbone=" in reason for reason in flagged(model).skipped)
    assert max(map(len, str(kf.check(model)).splitlines())) <= 80


def test_a_model_without_a_graph_is_not_said_to_have_another_loss():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(x)

    model = Own()
    model(np.ones((2, 4), "float32"))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    reasons = kf.check(model, np.ones((4, 4), "float32"), SPARSE).skipped
    assert any("code of its own, so its outputs aren't known" in reason for reason in reasons)
    assert not any("crossentropy" in reason for reason in reasons)


def test_as_text_html_and_data():
    found = flagged(dense(optimizer=keras.optimizers.Adam(1e-1)))
    assert len(found) == 2
    lines = str(found).splitlines()
    assert lines[0] == "net: 2 found"
    assert max(map(len, lines)) <= 80
    assert found._repr_html_().count("<li>") == 2
    assert [row["name"] for row in found.to_dict()["findings"]] == list(found.names)
    schedule = kf.FreezeScheduler({0: 1}, backbone="low")
    right = kf.check(dense(), np.ones((4, 4)), LABELS[:4], schedule=schedule)
    assert str(right) == "net: nothing found"


class TestInFits:
    """Callbacks say the same, once."""

    def lines(self, capsys):
        return [line for line in capsys.readouterr().out.splitlines() if line[:6] == "Check:"]

    @pytest.mark.backend
    def test_a_line_for_each_finding_of_a_fit(self, capsys):
        model = dense(activation=None)
        for _ in range(2):  # the mistake is still one
            callback = kf.FreezeScheduler({0: 1}, backbone="low")
            model.fit(np.ones((4, 4)), SPARSE, epochs=2, verbose=0, callbacks=[callback])
            (line,) = self.lines(capsys)
            assert "activation is linear" in line

    @pytest.mark.backend
    def test_inputs_of_a_fit_are_looked_at_where_they_reach_the_backbone(self, capsys):
        model = vgg()
        callback = kf.FreezeScheduler({0: 5})
        model.fit(IMAGES[:4], LABELS[:4], verbose=0, callbacks=[callback])
        (line,) = self.lines(capsys)
        assert "vgg16.preprocess_input" in line

    def test_a_step_that_takes_its_inputs_out_of_others_still_trains(self, capsys):
        """Keras calls such a model with something else than what `fit` was given."""

        @keras.saving.register_keras_serializable("test_check")
        class Own(keras.Model):
            def train_step(self, data):
                x, y = data
                return super().train_step((x["image"], y))

        plain = vgg()
        model = Own(plain.input, plain.output)
        model.compile("sgd", "sparse_categorical_crossentropy")
        x = {"image": IMAGES[:4], "id": np.arange(4)}
        model.fit(x, LABELS[:4], verbose=0, callbacks=[kf.FreezeScheduler({0: 5})])
        assert self.lines(capsys) == []
        found = kf.check(model, x, LABELS[:4], schedule=kf.FreezeScheduler({0: 5}))
        assert "code of its own" in str(found)

    def test_nothing_is_said_of_a_fit_that_is_right_or_quiet(self, capsys):
        fit = {"epochs": 1, "verbose": 0}
        x = np.ones((8, 4))
        model = dense(optimizer=keras.optimizers.Adam(1e-3))
        right = kf.GradualUnfreeze(backbone="low")
        model.fit(x, SPARSE.repeat(2), callbacks=[right], **fit)
        quiet = kf.FreezeScheduler({0: None}, backbone="low", verbose=0)
        model = dense(optimizer=keras.optimizers.Adam(1e-3))
        assert flagged(model)
        model.fit(x, SPARSE.repeat(2), callbacks=[quiet], **fit)
        assert self.lines(capsys) == []

    def test_labels_of_the_whole_data_count(self, capsys):
        model = dense(frozen=["backbone"])
        labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3])
        with pytest.raises(Exception, match="3"):  # TensorFlow refuses them, on a processor
            model.fit(np.ones((10, 4)), labels, verbose=0, callbacks=[kf.GradualUnfreeze()])
        assert "Labels go from 0 to 3" in self.lines(capsys)[0]

    def test_advice_that_fails_ends_no_training(self, monkeypatch):
        def fails(*args):
            raise ValueError("what a model says of inputs that it can't take")

        monkeypatch.setattr(fit_findings, "of_inputs", fails)
        callback = kf.FreezeScheduler({0: 1}, backbone="low")
        history = dense().fit(np.ones((4, 4)), SPARSE, verbose=0, callbacks=[callback])
        assert len(history.epoch) == 1

    def test_data_that_would_be_read_away_are_left_alone(self, capsys):
        tf = pytest.importorskip("tensorflow")
        read = []

        def samples():
            for row in range(4):
                read.append(row)
                yield np.ones(4, "float32"), SPARSE[row]

        spec = (tf.TensorSpec((4,)), tf.TensorSpec((), "int64"))
        data = tf.data.Dataset.from_generator(samples, output_signature=spec)
        data = data.batch(4).apply(tf.data.experimental.assert_cardinality(1))
        model = dense()
        model.fit(data, verbose=0, shuffle=False)
        read.clear()
        model.fit(data, verbose=0, shuffle=False)
        plain = len(read)
        read.clear()
        callback = kf.FreezeScheduler({0: 1}, backbone="low")
        model.fit(data, verbose=0, shuffle=False, callbacks=[callback])
        assert len(read) == plain
        assert self.lines(capsys) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_no_false_alarm_on_families_used_as_documented(family):
    """The recipe of Keras's guide to transfer learning, with its two steps."""
    module = MODULES[family]
    backbone = MODELS[family](include_top=False, weights=None, input_shape=(80, 80, 3))
    as_if_trained(backbone)
    backbone.trainable = False
    inputs = keras.Input((80, 80, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.GlobalAveragePooling2D()(backbone(x, training=False))
    outputs = layers.Dense(3, "softmax")(layers.Dropout(0.2)(x))
    model = keras.Model(inputs, outputs)
    images = np.random.default_rng(0).uniform(0, 255, (12, 80, 80, 3)).astype("float32")
    prepared = np.asarray(module.preprocess_input(images))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    assert kf.check(model, prepared, LABELS, batch_size=32).names == ()
    assert planned(model, prepared, LABELS).names == ()
    model.fit(prepared, LABELS, verbose=0)
    backbone.trainable = True
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy")
    assert kf.check(model, prepared, LABELS, batch_size=32).names == ()


def test_no_false_alarm_on_the_demo():
    from keras_freeze.demo import photographs, vgg

    data = photographs.load(train=2, validation=1, test=1, size=32)
    backbone, _ = vgg.backbone(32, "none")
    model = vgg.classifier(as_if_trained(backbone), 15)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    schedule = kf.GradualUnfreeze(backbone=vgg.BLOCKS)
    found = kf.check(model, data.train.x, data.train.y, schedule=schedule, batch_size=16)
    assert found.names == ()


def test_a_quiet_fit_leaves_what_it_found_to_the_next(capsys):
    model, x = dense(activation=None), np.ones((4, 4))
    for verbose in (0, 1):
        callback = kf.FreezeScheduler({0: None}, backbone="low", verbose=verbose)
        model.fit(x, SPARSE, verbose=0, callbacks=[callback])
        assert ("Check:" in capsys.readouterr().out) == (verbose == 1)


def test_labels_in_a_list():
    model = dense(frozen=["backbone"])
    assert kf.check(model, np.ones((4, 4)), [0, 1, 2, 3]).names == ("labels",)


class Block(layers.Layer):
    """A block of a user's own, whose last part is a Dropout, kept in one of several ways."""

    def __init__(self, kept):
        super().__init__(name="block")
        self.dense, drop = layers.Dense(4), layers.Dropout(0.5)
        if kept == "list":
            self.parts = [drop]
        elif kept == "dict":
            self.parts = {"drop": drop}
        elif kept == "private":
            self._drop = drop
        else:
            self.drop = drop
        self._get = lambda: drop

    def call(self, inputs):
        return inputs + self._get()(self.dense(inputs))


@pytest.mark.parametrize("kept", ["attribute", "list", "dict", "private"])
def test_the_cure_for_dropout_in_a_block_of_ones_own_works(kept):
    block = Block(kept)
    backbone = keras.Sequential([keras.Input((4,)), layers.Dense(4), block], name="backbone")
    model = keras.Sequential([backbone, layers.Dense(1)])
    as_if_trained(model)
    model.compile("sgd", "mse")
    kf.freeze(model, layers=["backbone"])
    (found,) = kf.check(model, backbone="backbone")
    assert found.name == "Dropout in the frozen part"
    exec(found.cure.partition(" and so on")[0], {"model": model, "kf": kf})
    kf.recompile(model)
    assert kf.check(model, backbone="backbone").names == ()


@pytest.mark.parametrize("row", [0, 3, 150, 4999])
def test_a_single_value_in_all_rows_is_found(row):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    x = np.ones((5000, 3), "float32")
    x[row, 1] = np.nan
    assert "inputs" in kf.check(model, x, np.ones(5000)).names
    tokens = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(9, 2)])
    numbers = np.ones((5000, 2), "int32")
    numbers[row, 0] = 9
    assert "token numbers" in kf.check(tokens, numbers).names


def test_a_model_that_is_not_built_is_refused_in_the_name_of_the_callback():
    class Net(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"GradualUnfreeze\(model=.*must be built.*one batch"):
        kf.GradualUnfreeze().preview(Net(), epochs=2)
