"""CKA by layer group: 1 with itself, less where something has changed, and reasons where none."""

import keras
import numpy as np
import pytest

from keras_freeze import explain
from keras_freeze.measures import cka

layers = keras.layers


def images(count=24):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 2)).astype("float32")


def disturbed(model, *names):
    rng = np.random.default_rng(1)
    for name in names:
        for weight in model.get_layer(name).weights:
            weight.assign(rng.normal(size=weight.shape) ** 2)
    return model


@pytest.mark.backend
@pytest.mark.parametrize("as_weights", [True, False])
def test_a_model_equals_itself_and_differs_from_where_it_has_moved(
    batch_norm, unchanged, as_weights
):
    model = batch_norm()
    model.compile("adam", "mse")
    reference = model.get_weights()
    if not as_weights:
        reference = keras.models.clone_model(model)
        reference.set_weights(model.get_weights())
    with unchanged(model):
        same = explain.similarity(model, reference, images())
    assert [group.name for group in same.groups] == ["block1", "block2", "head"]
    assert [group.cka for group in same.groups] == pytest.approx([1.0, 1.0, 1.0])
    disturbed(model, "block2_conv")
    moved = explain.similarity(model, reference, images())
    first, second, _ = (group.cka for group in moved.groups)
    assert first == pytest.approx(1.0)
    assert second < 0.95


def test_the_value_is_cka_of_what_the_groups_put_out(plain):
    model, x = plain(), np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    reference = keras.models.clone_model(model)
    reference.set_weights(model.get_weights())
    disturbed(model, "middle")
    found = explain.similarity(model, reference, x, groups={"low": "low", "rest": "middle|head"})
    assert [group.name for group in found.groups] == ["low", "rest"]
    expected = cka(reference.predict(x, verbose=0), model.predict(x, verbose=0))
    assert found.groups[1].cka == pytest.approx(expected, rel=1e-3)


def test_groups_without_cka_say_why():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low"),
            layers.Dense(2, kernel_initializer="zeros", name="head"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(20, 4))
    found = explain.similarity(model, model.get_weights(), x)
    assert found.groups[0].cka == pytest.approx(1.0)
    assert np.isnan(found.groups[1].cka)
    assert "constant features" in found.groups[1].reason
    text = str(found)
    assert "why not" in text
    assert found.to_dict()["groups"][1]["cka"] is None
    few = explain.similarity(model, model.get_weights(), x[:3])
    assert "at least 4 rows" in few.groups[0].reason


def test_it_is_a_table(plain):
    model = plain()
    found = explain.similarity(model, model.get_weights(), np.random.default_rng(0).random((9, 4)))
    lines = str(found).splitlines()
    assert lines[0] == "plain, similarity to the pretrained model, 9 samples"
    assert lines[-1].split() == ["head", "1.000"]
    assert "why not" not in str(found)
    assert "<table>" in found._repr_html_()


def test_a_reference_of_another_structure_is_refused(plain, batch_norm):
    model, x = plain(), np.ones((8, 4))
    other = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(6, name=n) for n in ("low", "middle", "head"))]
    )
    start = r"^explain.similarity\(reference=...\) must "
    with pytest.raises(ValueError, match=start + "have the structure .*differs in .*'middle'"):
        explain.similarity(model, other, x, groups=["low", "middle", "head"])
    with pytest.raises(ValueError, match=start + "have the structure .*Received: 5 arrays"):
        explain.similarity(model, model.get_weights()[1:], x)
    with pytest.raises(ValueError, match=start + "have the structure .*Received: other shapes"):
        explain.similarity(model, model.get_weights()[::-1], x)
    with pytest.raises(TypeError, match=start + "be a model, or weights"):
        explain.similarity(model, "imagenet", x)
