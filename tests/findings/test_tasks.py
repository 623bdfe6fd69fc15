"""`check`, `suggest` and `rank_groups` of KerasHub's tasks, whose `fit` preprocesses the data."""

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.findings import images_given

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
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran"]
TEXTS = ["the cat sat", "the dog ran", "the cat ran", "the dog sat"] * 6
CLASSES = np.arange(24) % 2


def of_images(scale=None, offset=None):
    """Return a classifier whose preprocessor makes its images."""
    backbone = as_if_trained(hub_families.vit())
    converter = hub.layers.ImageConverter(image_size=(32, 32), scale=scale, offset=offset)
    task = hub.models.ViTImageClassifier(
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
        names = {"x": SCALED[name]}
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

    def test_of_several_images_a_sample_nothing_is_known(self):
        task = of_images(*CONVERTERS["tf"])
        one = np.zeros((2, 8, 8, 3))
        assert images_given(task, {"images": one}).shape == one.shape
        assert images_given(task, {"images": one, "masks": one}) is None
        assert images_given(task, {"images": one[:, None]}) is None

    def test_without_a_preprocessor_images_are_as_they_are(self):
        task = of_images(*CONVERTERS["tf"])
        task.preprocessor = None
        assert planned(task, IMAGES, LABELS).names == ("inputs",)  # of another size
        assert not planned(task, IMAGES[:, :32, :32], LABELS)

    @pytest.mark.filterwarnings("ignore")  # of KerasHub, while it builds
    @pytest.mark.parametrize("family", OF_IMAGES)
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

    def test_without_a_preprocessor_texts_are_not_what_it_takes(self):
        task = of_text(num_classes=2)
        task.preprocessor = None
        assert planned(task, np.array(TEXTS), CLASSES).names == ("inputs",)


class TestExplain:
    """A task is called with what its preprocessor makes; what it did not make is refused."""

    @pytest.mark.parametrize("x", [TEXTS, np.array(TEXTS)], ids=["list", "array"])
    def test_texts_are_refused(self, x):
        with pytest.raises(ValueError, match=r"Received: text\. Pass model\.preprocessor\(x\)"):
            kf.explain.heatmap(of_text(num_classes=2), x)

    @pytest.mark.parametrize("converter", ["unit", "tf", "torch"])
    def test_pixels_are_refused(self, converter):
        task = of_images(*CONVERTERS[converter])
        made = task.preprocessor(IMAGES)
        assert kf.explain.activations(task, made, "vi_t_backbone").shape[0] == 24
        with pytest.raises(ValueError, match=r"Pass model\.preprocessor\(x\)"):
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
