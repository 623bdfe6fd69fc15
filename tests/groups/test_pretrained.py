"""What is pretrained: named by `backbone=`, or found; groups follow it."""

import copy
import pickle

import keras
import pytest
from keras import layers
from pretrained_models import (
    MODELS,
    STAGES,
    below_and_above,
    build_backbone,
    classifier,
    deeplab,
    neck,
    nested_neck,
    unet_3,
)

import keras_freeze as kf
from keras_freeze.groups import names_of, picture_of

MADE = [stage for name in STAGES for stage in (name, f"{name}_bn")]


def weighted(model, **given):
    return {
        group.name: {layer.name for layer in group.layers if layer.weights}
        for group in kf.layer_groups(model, **given)
    }


@pytest.mark.parametrize(("build", "stages"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("how", ["model", "names"])
def test_no_group_mixes_what_is_pretrained_and_what_is_new(build, stages, how):
    backbone = build_backbone()
    model = build(backbone)
    given = backbone if how == "model" else [f"^{name}" + "(_bn)?$" for name in stages]
    groups = kf.layer_groups(model, backbone=given)
    assert [group.name for group in groups] == [*stages, "head"]
    for group in groups[:-1]:
        own = {layer.name for layer in group.layers if layer.weights}
        assert own == {group.name, f"{group.name}_bn"}
    counted = [id(v) for group in groups for v in group.variables]
    assert sorted(counted) == sorted(id(v) for v in model.weights)


def test_only_new_layers_below_the_backbone_are_said_to_feed_it():
    said = {}
    for name, (build, _) in MODELS.items():
        backbone = build_backbone()
        said[name] = picture_of(build(backbone), None, backbone).pretrained.has_new_below
    below = {name for name, is_below in said.items() if is_below}
    assert below == {"below_and_above", "adapters_between"}


class TestFound:
    @pytest.mark.parametrize("name", ["nested_neck", "siamese", "over_time"])
    def test_a_nested_model_that_inputs_alone_feed(self, name):
        build, stages = MODELS[name]
        model = build(build_backbone())
        assert list(weighted(model)) == [*stages, "head"]
        assert not picture_of(model).pretrained.is_assumed

    def test_several_in_parallel(self):
        backbones = [build_backbone(), keras.Sequential([keras.Input((4,)), layers.Dense(3)])]
        image, x = keras.Input((16, 16, 2)), keras.Input((4,))
        joined = layers.Concatenate()(
            [layers.Flatten()(backbones[0](image)), layers.Dropout(0.1)(backbones[1](x))]
        )
        model = keras.Model([image, x], layers.Dense(1)(joined))
        assert set(picture_of(model).pretrained.names) == {b.name for b in backbones}

    def test_a_nested_head_is_new_whatever_its_size(self):
        inputs = keras.Input((16, 16, 2))
        head = keras.Sequential([layers.Flatten(), layers.Dense(400), layers.Dense(3)])
        model = keras.Model(inputs, head(build_backbone()(inputs)))
        assert picture_of(model).pretrained.names == ("backbone",)

    def test_augmentation_and_normalization_are_no_backbone(self):
        before = keras.Sequential(
            [layers.RandomFlip(), layers.Normalization(mean=0.0, variance=1.0)]
        )
        inputs = keras.Input((16, 16, 2))
        x = layers.GlobalAveragePooling2D()(build_backbone()(before(inputs)))
        model = keras.Model(inputs, layers.Dense(3)(x))
        assert picture_of(model).pretrained.names == ("backbone",)

    def test_inside_a_model_around_the_whole(self):
        inner = nested_neck(build_backbone())
        inputs = keras.Input((16, 16, 2))
        model = keras.Model(inputs, layers.Softmax()(inner(inputs)))
        assert list(weighted(model)) == [*STAGES, "head"]

    @pytest.mark.parametrize("build", [neck, unet_3, deeplab, classifier])
    def test_what_is_inlined_is_not_told_apart(self, build):
        pretrained = picture_of(build(build_backbone())).pretrained
        assert pretrained.is_assumed

    def test_layers_that_feed_a_nested_model_leave_a_doubt(self):
        assert picture_of(below_and_above(build_backbone())).pretrained.is_assumed

    def test_a_nested_model_that_makes_an_output_is_none(self):
        backbone = build_backbone()
        inputs = keras.Input((16, 16, 2))
        features = layers.GlobalAveragePooling2D()(backbone(inputs))
        model = keras.Model(inputs, [features, layers.Dense(3)(features)])
        assert picture_of(model).pretrained.is_assumed

    def test_a_subclassed_model_shows_nothing(self):
        class Classifier(keras.Model):
            def __init__(self):
                super().__init__()
                self.backbone, self.pool = build_backbone(), layers.GlobalAveragePooling2D()
                self.top = layers.Dense(3)

            def call(self, x):
                return self.top(self.pool(self.backbone(x)))

        model = Classifier()
        model(keras.ops.zeros((1, 16, 16, 2)))
        assert picture_of(model).pretrained.is_assumed
        assert list(weighted(model, backbone="backbone")) == [*STAGES, "head"]


class TestGiven:
    @pytest.mark.parametrize(
        "given",
        [
            "backbone",
            ["low", "low_bn", "middle", "middle_bn", "deep", "deep_bn"],
            "^(low|middle|deep)",
            {"encoder": MADE},
            [{"a": MADE[:2]}, "middle", "deep"],
        ],
        ids=str,
    )
    def test_by_names_and_patterns(self, given):
        names = list(weighted(nested_neck(build_backbone()), backbone=given))
        assert names == [*STAGES, "head"]

    def test_a_layer_of_the_same_name_that_it_does_not_hold_is_new(self):
        """A backbone is cut before its own top, and the new one has that one's name."""
        base = build_backbone()
        whole = keras.Model(
            base.input, layers.Dense(9, name="top")(layers.GlobalAveragePooling2D()(base.output))
        )
        x = layers.GlobalAveragePooling2D()(whole.get_layer("deep_relu").output)
        model = keras.Model(whole.input, layers.Dense(3, name="top")(x))
        assert weighted(model, backbone=whole)["head"] == {"top"}

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_what_a_callback_keeps_is_names(self, copied):
        backbone = build_backbone()
        kept = copied(kf.GradualUnfreeze(backbone=backbone)).backbone
        assert kept == names_of("", eval(repr(kept)))
        del backbone
        for build in (neck, nested_neck, unet_3):
            assert list(weighted(build(build_backbone()), backbone=kept)) == [*STAGES, "head"]

    def test_a_backbone_known_by_name_alone_must_be_in_the_model_as_a_whole(self):
        base = build_backbone()
        kept = pickle.loads(pickle.dumps(names_of("", base)))
        model = classifier(keras.Model(base.input, base.get_layer("middle_relu").output))
        assert list(weighted(model, backbone=base)) == ["low", "middle", "head"]
        with pytest.raises(ValueError, match=r"'backbone', of whose layers .* does not have deep"):
            kf.layer_groups(model, backbone=kept)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("lo w", r"matches none of model 'net'\. Did you mean 'low' or 'low_bn'\?"),
            ("(", "be a name or a valid regular expression"),
            (".", "leave new layers to train beside it"),
            ("relu", "name layers with weights"),
            ([], "name at least one layer"),
            ({"encoder": ["low", "nothing"]}, "does not have nothing"),
        ],
    )
    def test_what_it_can_not_be(self, given, message):
        model = classifier(build_backbone())
        model.name = "net"
        with pytest.raises(ValueError, match=message):
            kf.layer_groups(model, backbone=given)

    @pytest.mark.parametrize("given", [3, {"encoder": "low"}, ["low", 3], ""])
    @pytest.mark.parametrize("user", [kf.GradualUnfreeze, kf.tuning.DepthSweep])
    def test_another_type_is_refused_where_it_is_given(self, given, user):
        arguments = (lambda: None,) if user is kf.tuning.DepthSweep else ()
        with pytest.raises(TypeError, match=rf"{user.__name__}\(backbone=\.\.\.\) must be a model"):
            user(*arguments, backbone=given)

    def test_a_layer_inside_a_wrapper(self):
        inner = layers.Dense(4, name="inner")
        inputs = keras.Input((3, 4))
        x = layers.TimeDistributed(inner, name="over_time")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="top")(layers.Flatten()(x)))
        for given in (inner, "inner", "over_time"):
            assert weighted(model, backbone=given) == {"over_time": {"over_time"}, "head": {"top"}}

    def test_a_layer_of_no_part_of_the_model(self):
        other = layers.Dense(2, name="other")
        with pytest.raises(ValueError, match=r"of whose layers model .* does not have other"):
            kf.layer_groups(classifier(build_backbone()), backbone=other)


class TestWithGroups:
    def test_the_group_of_new_layers_is_the_last(self):
        backbone = build_backbone()
        groups = {"bottom": "^(low|middle|deep)", "new": "^(adapter|neck|classes)"}
        model = below_and_above(backbone)
        assert list(weighted(model, groups=groups)) == ["new", "bottom"]
        assert list(weighted(model, groups=groups, backbone=backbone)) == ["bottom", "new"]

    def test_a_group_that_mixes_is_refused(self):
        groups = {"first": "^(low|middle)", "mixed": "^(deep|neck)", "top": "^classes"}
        with pytest.raises(
            ValueError, match=r"group 'mixed', of whose 4 .* neck and neck_bn are new"
        ):
            kf.layer_groups(neck(build_backbone()), groups, backbone="^(low|middle|deep)")

    def test_two_groups_of_new_layers_are_refused(self):
        groups = {"backbone": "^(low|middle|deep)", "neck": "^neck", "top": "^classes"}
        with pytest.raises(ValueError, match="2 groups of new layers: neck and top"):
            kf.layer_groups(neck(build_backbone()), groups, backbone="^(low|middle|deep)")

    def test_groups_without_a_backbone_are_taken_as_they_are(self):
        model = nested_neck(build_backbone())
        groups = {"first": "^low", "mixed": "^(middle|deep|neck)", "top": "^classes"}
        assert list(weighted(model, groups=groups)) == list(groups)
