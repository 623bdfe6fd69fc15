"""`check`, `suggest` and `rank_groups` of KerasHub's tasks, whose `fit` preprocesses the data."""

import random

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.hub_tasks import are_pixels
from keras_freeze.keras_internals import random_state

hub = pytest.importorskip("keras_hub")

import hub_families  # noqa: E402

pytestmark = pytest.mark.hub

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 48, 48, 3)).astype("uint8")
LABELS = np.arange(24) % 3
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Scale and offset as presets have them: to 0 to 1, to -1 to 1, standardized, centred alone.
CONVERTERS = {
    "unit": (1 / 255, None),
    "tf": (1 / 127.5, -1.0),
    "torch": (tuple(1 / 255 / DEVIATION), tuple(-MEAN / DEVIATION)),
    "caffe": (None, (-123.68, -116.779, -103.939)),
}
SCALED = {"unit": IMAGES / 255, "tf": IMAGES / 127.5 - 1, "twice": IMAGES / 255 / DEVIATION - 2.1}
OF_IMAGES = (
    "cspnet",
    "deit",
    "densenet",
    "dinov2",
    "dinov3",
    "efficientnet",
    "hgnetv2",
    "mit",
    "mobilenet",
    "mobilenetv5",
    "resnet",
    "swin_transformer",
    "vgg",
    "vit",
    "vit_det",
    "xception",
)
# Their layers are named as those of keras.applications.
NAMED = ("densenet", "efficientnet", "resnet", "vgg", "xception")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran"]
TEXTS = ["the cat sat", "the dog ran", "the cat ran", "the dog sat"] * 6
CLASSES = np.arange(24) % 2


def of_images(scale=None, offset=None, kind=None, **options):
    """Return a classifier whose preprocessor makes its images."""
    backbone = as_if_trained(hub_families.vit())
    converter = hub.layers.ImageConverter(
        image_size=(32, 32), scale=scale, offset=offset, **options
    )
    task = (kind or hub.models.ViTImageClassifier)(
        backbone,
        3,
        preprocessor=hub.models.ViTImageClassifierPreprocessor(image_converter=converter),
        activation="softmax",
    )
    task.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    return task


def of_text(kind="BertTextClassifier", **options):
    tokenizer = hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True)
    preprocessor = getattr(hub.models, f"{kind}Preprocessor")(tokenizer, sequence_length=8)
    backbone = as_if_trained(hub.models.BertBackbone(**hub_families.SHORT_TEXT, dropout=0.0))
    task = getattr(hub.models, kind)(backbone=backbone, preprocessor=preprocessor, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(keras.optimizers.Adam(5e-5), loss)
    return task


def gpt2(length=8):
    """Return a model of the next token, with a tokenizer of byte pairs."""
    words = {word: n for n, word in enumerate(["<|endoftext|>", "Ġ", *"thecasdogrn", "th", "the"])}
    tokenizer = hub.models.GPT2Tokenizer(words, ["t h", "th e"])
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=length)
    backbone = hub.models.GPT2Backbone(**hub_families.SHORT_TEXT, dropout=0.0)
    task = hub.models.GPT2CausalLM(as_if_trained(backbone), preprocessor)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(keras.optimizers.Adam(5e-5), loss)
    return task


class FromOne(hub.models.ViTImageClassifier):
    """Takes class numbers from 1."""

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return super().preprocess_samples(x, None if y is None else y - 1, sample_weight)


class OwnCode(hub.models.ViTImageClassifier):
    """Has no preprocessor, and preprocesses."""

    def preprocess_samples(self, x, y=None, sample_weight=None):
        x = keras.ops.image.resize(keras.ops.cast(x, "float32") / 127.5 - 1, (32, 32))
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def planned(task, x, y=None):
    return kf.check(task, x, y, schedule=kf.GradualUnfreeze(), batch_size=24)


class TestImages:
    @pytest.mark.backend
    @pytest.mark.parametrize("converter", CONVERTERS)
    def test_what_a_task_scales_is_to_be_pixels(self, converter):
        task = of_images(*CONVERTERS[converter])
        found = planned(task, IMAGES, LABELS)
        assert not found
        assert not any(reason.startswith("preprocessing: ") for reason in found.skipped)
        for images in SCALED.values():
            (finding,) = planned(task, images, LABELS)
            assert finding.name == "preprocessing"
            assert "scales images of 0 to 255" in finding.what

    @pytest.mark.parametrize("name", ["unit", "tf"])
    def test_the_cure_makes_pixels_of_scaled_images(self, name):
        task = of_images(*CONVERTERS["torch"])
        (finding,) = planned(task, SCALED[name], LABELS)
        names = {"x": SCALED[name], "np": np}
        exec(finding.cure.partition(", as")[0], names)
        np.testing.assert_allclose(names["x"], IMAGES, atol=1e-3)
        assert not planned(task, names["x"], LABELS)

    def test_batches_of_a_dataset_are_looked_at_too(self):
        tf = pytest.importorskip("tensorflow")
        task = of_images(*CONVERTERS["tf"])
        for images, count in ((IMAGES, 0), (SCALED["unit"], 1)):
            assert (
                len(planned(task, tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(8)))
                == count
            )

    @pytest.mark.parametrize("scale, offset", [(None, None), (2.0, -1.0), (1.0, None)])
    def test_a_converter_that_may_be_for_other_images_says_nothing(self, scale, offset):
        task = of_images(scale, offset)
        for images in (IMAGES, *SCALED.values()):
            found = planned(task, images, LABELS)
            assert not found
            assert any(reason.startswith("preprocessing: ") for reason in found.skipped)

    def test_a_converter_may_be_the_preprocessor(self):
        task = of_images(*CONVERTERS["tf"])
        task.preprocessor = task.preprocessor.image_converter
        assert not planned(task, IMAGES, LABELS)
        assert planned(task, SCALED["unit"], LABELS).names == ("preprocessing",)

    @pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
    def test_the_cure_is_known_in_other_precisions(self, precision):
        keras.config.set_dtype_policy(precision)
        try:
            task = of_images(*CONVERTERS["torch"])
        finally:
            keras.config.set_dtype_policy("float32")
        (finding,) = planned(task, SCALED["unit"], LABELS)
        assert finding.cure.startswith("x = 255 * ")

    def test_nothing_is_known_of_another_layer_as_preprocessor(self):
        task = of_images()
        task.preprocessor = keras.layers.Resizing(32, 32)
        assert not planned(task, IMAGES, LABELS)

    def test_suggest_names_it_too(self):
        task = of_images(*CONVERTERS["tf"])
        abouts = [
            {one.about for one in kf.suggest(task, x, LABELS).advice}
            for x in (IMAGES, SCALED["unit"])
        ]
        assert ["preprocessing" in about for about in abouts] == [False, True]

    @pytest.mark.backend
    def test_channels_first(self):
        options = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
        backbone = hub.models.ViTBackbone(
            (3, 32, 32), patch_size=16, data_format="channels_first", **options
        )
        scale, offset = CONVERTERS["torch"]
        converter = hub.layers.ImageConverter(
            image_size=(32, 32), scale=scale, offset=offset, data_format="channels_first"
        )
        preprocessor = hub.models.ViTImageClassifierPreprocessor(image_converter=converter)
        task = hub.models.ViTImageClassifier(
            as_if_trained(backbone), 3, preprocessor=preprocessor, activation="softmax"
        )
        task.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        images = IMAGES.transpose(0, 3, 1, 2)
        assert not planned(task, images, LABELS)
        assert planned(task, images / 255, LABELS).names == ("preprocessing",)
        assert not are_pixels(task, task.preprocessor(images))
        assert are_pixels(task, images)

    def test_what_fit_takes_and_a_call_does_not(self):
        """Called at once, KerasHub's layers don't pad whole numbers."""
        options = {"pad_to_aspect_ratio": True, "crop_to_aspect_ratio": False}
        task = of_images(*CONVERTERS["torch"], **options)
        assert not planned(task, IMAGES[:, :20], LABELS)

    def test_all_arrays_are_looked_at(self):
        task = of_images(*CONVERTERS["tf"])
        images, labels = np.repeat(IMAGES, 10, 0).astype("float32"), np.repeat(LABELS, 10)
        images[3] = np.nan
        for given in (images, list(images)):
            (finding,) = planned(task, given, labels)
            assert finding.what.startswith("Inputs contain NaN")
        labels[[3, 150]] = 7
        (finding,) = planned(task, np.nan_to_num(images), labels)
        assert finding.what.startswith("Labels go from 0 to 7")
        of_one_colour = [np.full((48, 48, 3), 10 * n, "uint8") for n in range(24)]
        assert not planned(task, of_one_colour, LABELS)
        (finding,) = planned(task, np.repeat(IMAGES[:1], 24, 0), LABELS)
        assert finding.what.startswith("All 24 samples are the same")

    def test_the_cure_works_for_a_list_too(self):
        images = list(SCALED["unit"])
        task = of_images(*CONVERTERS["tf"])
        (finding,) = planned(task, images, LABELS)
        names = {"x": images, "np": np}
        exec(finding.cure.partition(", as")[0], names)
        assert not planned(task, names["x"], LABELS)

    def test_without_a_preprocessor_images_are_as_they_are(self):
        task = of_images(*CONVERTERS["tf"])
        task.preprocessor = None
        assert planned(task, IMAGES, LABELS).names == ("inputs",)  # of another size
        assert not planned(task, IMAGES[:, :32, :32], LABELS)

    @pytest.mark.filterwarnings("ignore")  # of KerasHub, while it builds
    @pytest.mark.parametrize(
        "family",
        [
            name if name in NAMED else pytest.param(name, marks=pytest.mark.slow)
            for name in OF_IMAGES
        ],
    )
    def test_of_a_backbone_alone_the_range_is_not_known(self, family):
        """Presets of one family differ, and none says what its images were scaled to."""
        backbone = as_if_trained(hub_families.FAMILIES[family]())
        outputs = keras.tree.flatten(backbone.output)[0]
        outputs = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(outputs))
        model = keras.Model(backbone.input, outputs)
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        size = keras.tree.flatten(backbone.input)[0].shape[1]
        images = np.resize(IMAGES, (24, size, size, 3))
        for x in (images, images / 255, images / 127.5 - 1, images - 110.0, images / 60 - 2.1):
            found = kf.check(model, x, LABELS, backbone=backbone)
            assert "preprocessing" not in found.names
            assert any(reason.startswith("preprocessing: ") for reason in found.skipped)


class TestOwnCode:
    def test_labels_are_those_that_it_makes(self):
        task = of_images(*CONVERTERS["tf"], kind=FromOne)
        assert not planned(task, IMAGES, LABELS + 1)
        assert planned(task, IMAGES, LABELS).names == ("labels",)
        found = kf.find_learning_rate(task, IMAGES, LABELS + 1, steps=20, batch_size=4, lowest=1e-4)
        assert found.learning_rate > 1e-4

    def test_values_that_it_spoils(self):
        class Spoils(FromOne):
            def preprocess_samples(self, x, y=None, sample_weight=None):
                x = keras.ops.full((len(y), 32, 32, 3), np.nan)
                return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

        task = of_images(*CONVERTERS["tf"], kind=Spoils)
        (finding,) = planned(task, IMAGES, LABELS)
        assert finding.what.startswith("Inputs contain NaN")

    @pytest.mark.backend  # JAX has float32 alone
    def test_targets_of_another_precision_are_those_that_were_given(self):
        task = of_images(*CONVERTERS["tf"])
        task.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy")
        x, y = np.repeat(IMAGES, 10, 0), np.full((240, 3), 0.1)
        y[:, 0] = 0.8
        y[1, 0] = 0.1
        assert 1 not in np.random.default_rng(0).permutation(240)[:32]
        assert planned(task, x, y).names == ("labels",)

    @pytest.mark.backend
    def test_samples_are_those_that_it_makes(self):
        task = OwnCode(as_if_trained(hub_families.vit()), 3, activation="softmax")
        task.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        assert not planned(task, IMAGES, LABELS)
        assert kf.rank_groups(task, IMAGES, LABELS).ranked()


class TestText:
    @pytest.mark.backend
    @pytest.mark.parametrize("make", [list, np.array, lambda x: np.array(x, object)])
    def test_texts_are_what_a_task_takes(self, make):
        task = of_text(num_classes=2)
        assert not planned(task, make(TEXTS), CLASSES)
        assert planned(task, make(TEXTS), CLASSES + 1).names == ("labels",)

    def test_two_texts_and_labels_in_a_list(self):
        task = of_text(num_classes=2)
        assert not planned(task, (TEXTS, TEXTS), CLASSES.tolist())

    def test_a_dataset_of_texts(self):
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((TEXTS, CLASSES)).batch(8)
        assert not planned(of_text(num_classes=2), data)

    @pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of the pooled_dense
    def test_labels_that_the_preprocessor_makes(self):
        task = of_text("BertMaskedLM")
        found = planned(task, TEXTS)
        assert not found
        assert "labels: pass y" not in found.skipped
        assert kf.rank_groups(task, TEXTS).ranked()
        settings = {"steps": 20, "batch_size": 4, "lowest": 1e-3}
        assert kf.find_learning_rate(task, TEXTS, **settings).learning_rate > 1e-3

    def test_tokens_beyond_the_embedding_are_found(self):
        task = of_text(num_classes=2)
        few = hub.models.BertBackbone(**{**hub_families.SHORT_TEXT, "vocabulary_size": 6})
        small = hub.models.BertTextClassifier(as_if_trained(few), 2, preprocessor=task.preprocessor)
        small.compile(keras.optimizers.Adam(5e-5), task.loss)
        assert "token numbers" in planned(small, TEXTS, CLASSES).names

    @pytest.mark.backend
    def test_groups_are_ranked_as_by_what_the_preprocessor_makes(self):
        task = of_text(num_classes=2)
        ranked = kf.rank_groups(task, TEXTS, CLASSES, batch_size=24)
        inputs, labels = task.preprocessor(TEXTS, CLASSES)
        task.preprocessor = None
        inputs = keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
        by_hand = kf.rank_groups(task, inputs, np.asarray(labels), batch_size=24)
        assert ranked.to_dict() == by_hand.to_dict()

    @pytest.mark.slow
    def test_suggest_probes_what_the_preprocessor_makes(self):
        task = of_text(num_classes=2)
        texts = [text.ljust(4000) for text in TEXTS]  # more letters than there are few samples
        found = kf.suggest(task, texts, CLASSES)
        assert found.is_small
        inputs, labels = task.preprocessor(texts, CLASSES)
        task.preprocessor = None
        inputs = keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
        by_hand = kf.suggest(task, inputs, np.asarray(labels))
        assert found.probes == by_hand.probes
        assert (found.depth, found.is_small) == (by_hand.depth, by_hand.is_small)

    @pytest.mark.backend
    @pytest.mark.parametrize("make", [list, np.array])
    def test_byte_pairs(self, make):
        task = gpt2()
        assert not planned(task, make(TEXTS))
        assert kf.rank_groups(task, make(TEXTS)).ranked()

    def test_no_depth_is_suggested_for_what_has_a_class_at_each_position(self):
        for task in (gpt2(), of_text("BertMaskedLM")):
            with pytest.raises(ValueError, match=r"must be one class for each sample"):
                kf.suggest(task, TEXTS)
        small = [
            kf.suggest(gpt2(n), TEXTS, n_samples=12_000, similarity="near").is_small
            for n in (8, 16)
        ]
        assert small == [False, False]

    def test_random_generators_stay_as_they_are(self):
        class Draws(hub.models.BertTextClassifier):
            def preprocess_samples(self, x, y=None, sample_weight=None):
                np.random.seed(7)
                random.seed(7)
                return super().preprocess_samples(x, y, sample_weight)

        task = of_text(num_classes=2)
        drawing = Draws(task.backbone, 2, preprocessor=task.preprocessor)
        drawing.compile(keras.optimizers.Adam(5e-5), task.loss)
        for model, labels in ((drawing, CLASSES), (of_text("BertMaskedLM"), None)):
            before = random_state.capture()
            kf.check(model, TEXTS, labels)
            kf.rank_groups(model, TEXTS, labels)
            np.testing.assert_equal(random_state.capture(), before)

    def test_labels_that_are_missing_and_that_nothing_makes(self):
        task = of_text(num_classes=2)
        for function in (kf.rank_groups, kf.find_learning_rate):
            with pytest.raises(ValueError, match=r"\(y=...\) must be given where x are arrays"):
                function(task, TEXTS)

    def test_labels_of_text(self):
        names = np.array(["cat", "dog"] * 12)
        with pytest.raises(ValueError, match=r"np.unique\(y, return_inverse=True\)"):
            kf.suggest(of_images(*CONVERTERS["tf"]), IMAGES, names)
        assert planned(of_text(num_classes=2), TEXTS, names).names == ("labels",)

    def test_another_loss_keeps_the_logits(self):
        task = of_text(num_classes=2)
        (finding,) = planned(task, TEXTS, np.eye(2)[CLASSES])
        names = {"keras": keras}
        exec(finding.cure, names)
        task.compile(keras.optimizers.Adam(5e-5), names["loss"])
        assert not planned(task, TEXTS, np.eye(2)[CLASSES])

    @pytest.mark.parametrize(
        "x", [np.arange(24), np.array([None, *TEXTS[1:]], object)], ids=["numbers", "None"]
    )
    def test_what_the_preprocessor_can_not_take(self, x):
        with pytest.raises(ValueError, match=r"must be what fit of \S* preprocesses"):
            planned(of_text(num_classes=2), x, CLASSES)

    @pytest.mark.parametrize("kind", ["DataLoader", "PyDataset"])
    def test_a_loader_is_refused_as_fit_does(self, kind):
        if kind == "DataLoader":
            data = pytest.importorskip("torch.utils.data")
            loader = data.DataLoader(list(zip(TEXTS, CLASSES, strict=True)), batch_size=8)
        else:
            loader = keras.utils.PyDataset()
        for function in (kf.check, kf.rank_groups, kf.suggest, kf.find_learning_rate):
            with pytest.raises(ValueError, match=r"must be arrays, lists or a tf\.data\.Dataset"):
                function(of_text(num_classes=2), loader)

    @pytest.mark.parametrize("function", [kf.rank_groups, kf.suggest])
    def test_a_dataset_without_batches(self, function):
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((IMAGES[:, :32, :32], LABELS))
        task = of_images(*CONVERTERS["tf"])
        with pytest.raises(ValueError, match=r"must have batches\. Received: single samples"):
            function(task, data)

    def test_without_a_preprocessor_texts_are_not_what_it_takes(self):
        task = of_text(num_classes=2)
        task.preprocessor = None
        assert planned(task, np.array(TEXTS), CLASSES).names == ("inputs",)


class TestExplain:
    """A task is called with what its preprocessor makes; what it did not make is refused."""

    @pytest.mark.parametrize("x", [TEXTS, np.array(TEXTS)], ids=["list", "array"])
    def test_texts_are_refused(self, x):
        with pytest.raises(ValueError, match=r"Received: text\. Pass .*preprocess_samples\("):
            kf.explain.heatmap(of_text(num_classes=2), x)

    def test_texts_by_name_are_refused(self):
        with pytest.raises(ValueError, match=r"Pass .*preprocess_samples\(x\)\)\[0\]"):
            kf.explain.heatmap(of_text(num_classes=2), {"encoder_text": TEXTS})

    @pytest.mark.filterwarnings("ignore:Gradients do not exist")
    @pytest.mark.parametrize("make", [lambda: of_text("BertMaskedLM"), gpt2])
    def test_the_cure_cures(self, make):
        task, x = make(), np.array(TEXTS[:4])
        with pytest.raises(ValueError, match="Received: text") as caught:
            kf.explain.similarity(task, task.get_weights(), x)
        code = str(caught.value).partition("Pass ")[2].rstrip(".")
        made = eval(code, {"keras": keras, "model": task, "x": x})
        assert kf.explain.similarity(task, task.get_weights(), made)

    def test_tensors_of_text_are_refused(self):
        tf = pytest.importorskip("tensorflow")
        with pytest.raises(ValueError, match="Received: text"):
            kf.explain.activations(of_text(num_classes=2), tf.constant(TEXTS), "pooled_dense")

    @pytest.mark.parametrize("converter", ["unit", "tf", "torch"])
    def test_pixels_are_refused(self, converter):
        task = of_images(*CONVERTERS[converter])
        made = task.preprocessor(IMAGES)
        assert kf.explain.activations(task, made, "vi_t_backbone").shape[0] == 24
        with pytest.raises(ValueError, match=r"Pass .*model\.preprocess_samples\(x\)\)\[0\]"):
            kf.explain.activations(task, IMAGES[:, :32, :32], "vi_t_backbone")

    def test_what_the_preprocessor_makes_of_texts_is_explained(self):
        task = of_text(num_classes=2)
        made = task.preprocessor(TEXTS[:2])
        assert kf.explain.heatmap(task, made).values.shape == (2, 8)


def test_an_untrained_backbone_is_to_be_made_by_from_preset():
    task = hub.models.ViTImageClassifier(hub_families.vit(), 3)
    (finding, *_) = kf.check(task)
    assert finding.name == "untrained backbone"
    assert "from_preset" in finding.cure
