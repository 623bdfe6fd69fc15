"""Ranges of images: what is told of them, and what is left alone."""

import importlib

import numpy as np
import pytest
from families_of_images import MODELS
from keras import applications

from keras_freeze.findings import preprocessing
from keras_freeze.findings.preprocessing import (
    CAFFE,
    FAMILIES,
    RAW,
    TF,
    TORCH,
    Extremes,
    family_of,
    mismatch,
    steps_before,
)

SLOW = set(MODELS) - {"vgg16"}
MODES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODELS]


def photograph(seed=0, lowest=0.0, highest=255.0):
    """Return random images of shape `(4, 80, 80, 3)` that reach both ends of a range."""
    images = np.random.default_rng(seed).uniform(lowest, highest, (4, 80, 80, 3))
    images[0, 0, 0], images[0, 0, 1] = lowest, highest
    return images.astype("float32")


def scaled(mode, images):
    """Return images as `preprocess_input` scales them by a mode."""
    if mode == "raw":
        return images
    return applications.imagenet_utils.preprocess_input(images.copy(), mode=mode)


RANGES = {"raw": RAW, "tf": TF, "torch": TORCH, "caffe": CAFFE}


@pytest.mark.parametrize("expected", RANGES)
@pytest.mark.parametrize("given", [*RANGES, "unit"])
def test_a_range_that_is_not_the_expected_one_is_named(given, expected):
    pixels = np.floor(photograph())
    images = pixels / 255 if given == "unit" else scaled(given, pixels)
    found = mismatch(Extremes.of(images), RANGES[expected])
    if given == expected:
        assert found is None
    else:
        known = {**RANGES, "unit": preprocessing.UNIT}
        assert found == known[given].words


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_channels_in_the_other_order_are_seen_by_their_extremes(mode):
    turned = scaled(mode, photograph())[..., ::-1]
    assert "other order" in mismatch(Extremes.of(turned), RANGES[mode])


@pytest.mark.parametrize("mode", RANGES)
@pytest.mark.parametrize(
    "lowest, highest", [(0, 255), (0, 90), (160, 255), (100, 150), (3, 250), (77, 77)]
)
def test_dark_bright_and_flat_images_of_the_right_range_are_left_alone(mode, lowest, highest):
    images = scaled(mode, photograph(lowest=lowest, highest=highest))
    assert mismatch(Extremes.of(images), RANGES[mode]) is None


def test_images_that_were_resized_with_overshoot_are_left_alone():
    images = scaled("tf", photograph())
    assert mismatch(Extremes.of(images * 1.04), TF) is None


def test_standardized_images_are_left_alone_unless_they_are_far_too_large():
    images = np.random.default_rng(0).normal(0, 58, (4, 80, 80, 3))
    assert not Extremes.of(images).lowest > CAFFE.lowest
    assert mismatch(Extremes.of(images), CAFFE) is None
    assert mismatch(Extremes.of(images / 58), TF) is None
    assert mismatch(Extremes.of(images * 100), CAFFE) == "another range"


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_images_that_were_scaled_twice(mode):
    once = scaled(mode, photograph())
    assert mismatch(Extremes.of(scaled(mode, once)), RANGES[mode])
    assert "scaled before" in mismatch(Extremes.of(scaled(mode, photograph() / 255)), RANGES[mode])


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_bright_images_are_not_taken_for_others(mode):
    """Of which no pixel is darker than the middle, as of X-rays or sketches on white."""
    bright = np.floor(photograph(lowest=130, highest=255))
    assert mismatch(Extremes.of(scaled(mode, bright)), RANGES[mode]) is None


def test_values_that_are_not_finite_are_left_to_another_check():
    images = photograph()
    images[0, 0, 0, 0] = np.nan
    assert mismatch(Extremes.of(images), TF) is None


def test_grey_images_are_judged_by_their_extremes():
    grey = photograph()[..., :1]
    assert mismatch(Extremes.of(grey), TF) == RAW.words
    assert mismatch(Extremes.of(grey / 127.5 - 1), TF) is None


@pytest.mark.parametrize("name", MODES)
def test_each_family_is_found_and_expects_what_its_preprocess_input_gives(name):
    """Built without its weights, and renamed, since users rename."""
    kind, module = MODELS[name], importlib.import_module(f"keras.applications.{name}")
    renamed = {} if name == "efficientnet_v2" else {"name": "mine"}  # which looks itself up by it
    model = kind(include_top=False, weights=None, input_shape=(80, 80, 3), **renamed)
    layers = [layer.name for layer in model._flatten_layers()]
    family = family_of(layers)
    assert family.module == name
    prepared = module.preprocess_input(photograph().copy())
    assert mismatch(Extremes.of(np.asarray(prepared)), family.expects) is None
    if family.expects is not RAW:
        assert mismatch(Extremes.of(photograph()), family.expects) == RAW.words


def test_every_module_of_keras_applications_with_a_preprocess_input_has_a_family():
    modules = {
        name
        for name in dir(applications)
        if hasattr(getattr(applications, name), "preprocess_input") and name != "imagenet_utils"
    }
    # These are built as their namesakes are.
    same = {"vgg19": "vgg16", "resnet50": "resnet", "mobilenet": "mobilenet"}
    assert {same.get(name, name) for name in modules} == {family.module for family in FAMILIES}


def test_what_a_family_does_itself_is_told_from_what_stands_before_it():
    efficient = family_of(["stem_conv", "block1a_dwconv"])
    assert steps_before("NR", efficient) == (2, RAW)
    assert steps_before("RNR", efficient) == (3, RAW)
    assert steps_before("NRR", efficient) == (2, RAW)  # the last R is the user's
    second = family_of(["stem_conv", "block1a_project_conv"])
    assert steps_before("R", second) == (1, RAW)
    assert steps_before("", second) == (0, None)  # include_preprocessing=False
    vgg = family_of(["block1_conv1", "block5_conv3"])
    assert steps_before("R", vgg) == (0, CAFFE)
    assert steps_before("", family_of(["my_stem_conv", "my_stem_layernorm"])) == (0, None)


def test_other_models_are_of_no_family():
    assert family_of(["conv2d", "conv2d_1", "dense"]) is None
    assert family_of([]) is None
