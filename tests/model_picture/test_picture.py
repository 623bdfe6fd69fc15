"""A picture holds what planning needs of a model, whatever its flags say, and changes nothing."""

import dataclasses

import keras
import pytest

from keras_freeze.groups import layer_groups, picture_of, with_groups
from keras_freeze.model_picture import every_layer, opened_layers, read_model, weights_of


def test_a_picture_is_what_the_layers_say(any_model):
    model = any_model()
    picture = read_model(model)
    assert picture.model is model
    assert picture.layers == every_layer(model)
    assert picture.opened == opened_layers(model)
    assert [w.variable for w in picture.weights] == [w.variable for w in weights_of(model)]
    for layer in picture.layers:
        assert picture.layers_in[id(layer)] == every_layer(layer)
        inside = {id(w.variable) for w in picture.weights_in[id(layer)]}
        assert inside == {id(w.variable) for w in weights_of(layer)}
        assert {id(v) for v in picture.trainable_in[id(layer)]} <= inside


def test_a_picture_can_not_be_changed(plain):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_model(plain()).groups = ()


def test_what_flags_say_at_the_moment_is_not_in_it(batch_norm):
    model = batch_norm()
    before = read_model(model)
    model.trainable = False
    after = read_model(model)
    for layer in before.layers:
        assert before.trainable_in[id(layer)] == after.trainable_in[id(layer)]


def test_statistics_are_weights_that_were_not_made_to_be_trained(batch_norm):
    model = batch_norm()
    picture, norm = read_model(model), model.get_layer("block1_bn")
    assert [v.name for v in picture.trainable_in[id(norm)]] == ["gamma", "beta"]
    assert len(picture.weights_in[id(norm)]) == 4
    assert picture.batch_norms_in([norm]) == (norm,)


def test_batch_norms_are_found_inside_nested_models(nested):
    model = nested()
    picture = read_model(model)
    names = {layer.name for layer in picture.batch_norms_in([model])}
    assert names == {"block1_bn", "block2_bn"}
    assert picture.batch_norms_in([model.get_layer("head")]) == ()


def test_groups_are_those_of_layer_groups(any_model):
    model = any_model()
    picture = picture_of(model)
    assert list(picture.group_names) == [group.name for group in layer_groups(model)]
    assert read_model(model).groups == ()


def test_a_division_that_is_there_is_not_made_again(plain):
    picture = picture_of(plain(), {"all": ["low", "middle", "head"]})
    assert with_groups(picture, {"all": ("low", "middle", "head")}) is picture
    assert list(with_groups(picture).group_names) == ["low", "middle", "head"]
    assert list(picture.group_names) == ["all"]


def test_a_model_without_weights_has_a_picture_and_no_groups():
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    assert read_model(model).weights == ()
    with pytest.raises(ValueError, match="layer_groups"):
        with_groups(read_model(model))
