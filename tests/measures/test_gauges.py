"""How much groups change, by each criterion."""

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_freeze.groups import picture_of
from keras_freeze.measures import cka, gauge_for, svcca

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def build():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="tanh", name="low"),
            keras.layers.Dense(3, activation="tanh", name="high"),
            keras.layers.Dense(1, name="head"),
        ]
    )


def rows(seed=0, noise=0.0):
    x = np.random.default_rng(7).normal(size=(60, 3))
    return x + noise * np.random.default_rng(seed).normal(size=x.shape)


NORMS = {"falls": (4.0, 3.0, 0.25), "rises": (4.0, 8.0, 1.0), "was nothing": (0.0, 5.0, np.inf)}


@pytest.mark.parametrize(("before", "after", "change"), NORMS.values(), ids=NORMS)
def test_the_change_of_a_gradient_is_that_of_its_norm(before, after, change):
    assert gauge_for("AutoFreeze", "gradient").change([before], [after]) == change


WEIGHTS = {
    "of all together": ([[3.0, 0.0], [4.0]], [[3.0, 0.3], [4.4]], 0.1),
    "nothing moves": ([[3.0], [4.0]], [[3.0], [4.0]], 0.0),
    "from nothing": ([[0.0]], [[1e-3]], 1.0),
    "nothing at all": ([[0.0]], [[0.0]], 0.0),
}


@pytest.mark.parametrize(("before", "after", "change"), WEIGHTS.values(), ids=WEIGHTS)
def test_the_change_of_weights_is_relative_to_their_norm(before, after, change):
    gauge = gauge_for("AutoFreeze", "weight_change")
    looks = [[np.array(w, "float32") for w in look] for look in (before, after)]
    assert gauge.change(*looks) == pytest.approx(change)


def test_weights_that_do_not_train_are_not_looked_at():
    model = build()
    model.layers[0].trainable = False
    look = gauge_for("AutoFreeze", "weight_change").look(picture_of(model, None, ["low", "high"]))
    assert list(look) == ["high", "head"]
    np.testing.assert_array_equal(
        look["high"][0], keras.ops.convert_to_numpy(model.layers[1].kernel)
    )


@pytest.mark.parametrize(("criterion", "measure"), [("svcca", svcca), ("cka", cka)])
def test_the_change_of_outputs_is_what_is_missing_to_being_alike(criterion, measure):
    gauge = gauge_for("AutoFreeze", criterion, X)
    before, after = rows(), rows(noise=0.5)
    assert gauge.change([before], [before]) == pytest.approx(0.0, abs=1e-6)
    assert gauge.change([before], [after]) == pytest.approx(1 - measure(before, after))


def test_svcca_takes_the_batches_together_and_cka_adds_them_up():
    before, after = rows(), rows(noise=0.5)
    parts = [before[:20], before[20:]], [after[:20], after[20:]]
    whole = 1 - svcca(before, after)
    assert gauge_for("AutoFreeze", "svcca", X).change(*parts) == pytest.approx(whole)
    assert gauge_for("AutoFreeze", "cka", X).change(*parts) == pytest.approx(1 - cka(*parts))


def test_a_criterion_of_ones_own():
    def farthest(before, after):
        return np.abs(before - after).max()

    gauge = gauge_for("AutoFreeze", farthest, X)
    assert gauge.change([rows()[:9], rows()[9:]], [rows()[:9] + 2, rows()[9:]]) == pytest.approx(2)
    assert "farthest" in gauge.title
    look = gauge.look(picture_of(build(), None, ["low", "high"]))
    assert [sum(map(len, own)) for own in look.values()] == [64] * 3


def test_a_gradient_that_appears_is_a_change_and_none_is_not():
    change = gauge_for("AutoFreeze", "gradient").change
    assert change([np.array(0.0)], [np.array(2.0)]) == np.inf
    assert change([np.array(0.0)], [np.array(0.0)]) == 0.0
    assert change([np.array(2.0)], [np.array(0.0)]) == 1.0


def test_what_measures_alike_has_one_identity():
    def of(*arguments):
        return gauge_for("AutoFreeze", *arguments).identity

    assert of("cka", X) == of("cka", X.copy())
    others = [of("svcca", X), of("cka", X + 1), of("cka", X, "pretrained"), of("gradient")]
    others.append(of("cka", X.astype(ml_dtypes.bfloat16)))
    assert len({of("cka", X), *others, of("weight_change")}) == 7


REFUSED = {
    "criterion": (("loss",), ValueError, r"criterion=\.\.\.\) must be \"gradient\""),
    "no probe": (("cka",), ValueError, r"probe=\.\.\.\) must be given.*probe=x_train"),
    "no probe for a callable": ((max,), ValueError, r"probe=\.\.\.\) must be given"),
    "a probe for nothing": (("gradient", X), ValueError, r"probe=\.\.\.\) must be left out"),
    "a reference for nothing": (
        ("weight_change", None, "pretrained"),
        ValueError,
        r"reference=\.\.\.\) must be left out",
    ),
    "reference": (("cka", X, "first"), ValueError, r"reference=\.\.\.\) must be \"interval\""),
    "a probe that is no array": (("cka", "images"), TypeError, "nest of arrays"),
    "an empty probe": (("cka", X[:0]), ValueError, "have samples"),
    "uneven probes": (("cka", [X, X[:3]]), ValueError, "arrays of 64, 3"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_measured_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gauge_for("AutoFreeze", *arguments)
