"""Dimensions of a search, with KerasTuner's hyperparameters and with those of others."""

import keras
import keras_tuner
import numpy as np
import pytest
from small_searches import build, fixed, project

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.tuning import spaces
from keras_freeze.tuning.depth_in_force import depth_of


def trained(model):
    return {variable.path.split("/")[-2] for variable in model.trainable_variables}


class TestDepth:
    @pytest.mark.parametrize(
        ("depth", "names"), [(0, {"low", "middle", "head"}), (1, {"middle", "head"}), (2, {"head"})]
    )
    def test_so_many_groups_are_frozen(self, plain, depth, names):
        model = plain()
        assert tuning.freeze_depth(fixed(freeze_depth=depth), model) == depth
        assert depth_of(model).value == depth
        assert trained(model) == names

    def test_the_range_is_all_before_the_head(self, plain):
        hp = keras_tuner.HyperParameters()
        tuning.freeze_depth(hp, plain())
        (depth,) = hp.space
        assert (depth.name, depth.min_value, depth.max_value) == ("freeze_depth", 0, 2)

    def test_layers(self, nested):
        hp = fixed(freeze_depth=4)
        model = nested()
        tuning.freeze_depth(hp, model, unit="layer")
        other = nested()
        kf.freeze(other, first=4)
        kf.freeze(other, matching="_bn")  # of the pretrained part, above the depth too
        assert trained(model) == trained(other)

    @pytest.mark.parametrize(("part", "frozen"), [(0.0, 0), (0.5, 1), (1.0, 2)])
    def test_a_fraction_of_the_layers_before_the_head(self, plain, part, frozen):
        model = plain()
        assert tuning.freeze_depth(fixed(freeze_depth=part), model, unit="fraction") == part
        assert len(model.trainable_variables) == 2 * (3 - frozen)

    def test_a_range_of_ones_own(self, plain):
        hp = keras_tuner.HyperParameters()
        tuning.freeze_depth(hp, plain(), name="depth", min=1, max=2)
        (depth,) = hp.space
        assert (depth.name, depth.min_value, depth.max_value) == ("depth", 1, 2)

    def test_a_compiled_model_is_recompiled(self, plain):
        model = plain()
        model.compile("sgd", "sparse_categorical_crossentropy")
        tuning.freeze_depth(fixed(freeze_depth=2), model)
        low = model.get_layer("low").get_weights()
        model.fit(np.ones((4, 4)), np.zeros(4), verbose=0)
        for before, after in zip(low, model.get_layer("low").get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_two_architectures_do_not_share_a_range(self, plain, batch_norm):
        hp = keras_tuner.HyperParameters()
        tuning.freeze_depth(hp, plain())
        tuning.freeze_depth(hp, batch_norm(), max=1)
        tuning.freeze_depth(hp, plain())
        assert [(p.name, p.max_value) for p in hp.space] == [
            ("freeze_depth", 2),
            ("freeze_depth_0_1", 1),
        ]

    def test_names_in_a_scope(self, plain):
        hp = keras_tuner.HyperParameters()
        with hp.name_scope("a"):
            tuning.freeze_depth(hp, plain())
            tuning.freeze_depth(hp, plain(), max=1)
        assert [p.name for p in hp.space] == ["a/freeze_depth", "a/freeze_depth_0_1"]

    def test_a_hyperparameter_of_the_users_own(self, plain):
        hp = keras_tuner.HyperParameters()
        hp.Int("own_depth", 1, 2)
        assert tuning.freeze_depth(hp, plain(), name="own_depth") == 1
        assert [p.name for p in hp.space] == ["own_depth"]

    def test_a_depth_beyond_the_model(self, plain):
        with pytest.raises(ValueError, match=r"must name a hyperparameter within 0 and 2"):
            tuning.freeze_depth(fixed(own=3), plain(), name="own")

    def test_a_fixed_depth_after_a_search_of_that_depth_alone(self, plain):
        searched = keras_tuner.HyperParameters()
        tuning.freeze_depth(searched, plain(), min=2, max=2)
        assert tuning.freeze_depth(fixed(freeze_depth=2), plain()) == 2
        assert tuning.freeze_depth(searched, plain(), min=1, max=2) == 1
        assert [parameter.name for parameter in searched.space] == [
            "freeze_depth",
            "freeze_depth_1_2",
        ]

    def test_a_scope_that_is_not_active(self, plain):
        hp = fixed(kind="a")
        with hp.conditional_scope("kind", ["b"]):
            assert tuning.freeze_depth(hp, plain()) == 0

    def test_depths_that_freeze_the_same_are_asked_for_once(self):
        def build():
            return keras.Sequential(
                [
                    keras.Input((8, 8, 1)),
                    keras.layers.Conv2D(2, 3, name="low"),
                    keras.layers.MaxPooling2D(),
                    keras.layers.Conv2D(2, 3, name="high"),
                    keras.layers.GlobalMaxPooling2D(),
                    keras.layers.Dense(2, name="head"),
                ]
            )

        hp = keras_tuner.HyperParameters()
        tuning.freeze_depth(hp, build(), "layers", unit="layer")
        tuning.freeze_depth(hp, build(), "part", unit="fraction")
        layers, part = hp.space
        assert [len(build().layers[:n]) for n in layers.values] == [0, 1, 3]
        assert [part.values[0], part.values[-1], len(part.values)] == [0.0, 1.0, 3]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"unit": "block"}, r"freeze_depth\(unit=...\) must be one of group, layer, fraction"),
            ({"max": 3}, r"must be a range within 0 and 2"),
            ({"min": 2, "max": 1}, r"must be a range within 0 and 2"),
            ({"min": -1}, r"must be a range within 0 and 2"),
            ({"batch_norm": "x"}, r"freeze_depth\(batch_norm=...\) must be one of"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_wrong_values(self, plain, options, message):
        with pytest.raises(ValueError, match=message):
            tuning.freeze_depth(keras_tuner.HyperParameters(), plain(), **options)

    def test_wrong_types(self, plain):
        with pytest.raises(TypeError, match=r"freeze_depth\(max=...\) must be a number of groups"):
            tuning.freeze_depth(keras_tuner.HyperParameters(), plain(), max=1.5)


def test_two_architectures_after_a_restart(tmp_path, monkeypatch):
    deeper = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3) for _ in range(5))])

    def make(hp):
        model = deeper if hp.Choice("arch", ["plain", "deeper"]) == "deeper" else build()
        tuning.freeze_depth(hp, model)
        return model

    def new():
        return tuning.RandomSearch(make, "val_loss", max_trials=1, **project(tmp_path))

    new().save()
    monkeypatch.setattr(spaces, "_asked", {})  # what a process knows at its beginning
    hp = new().oracle.get_space()
    hp.values["arch"] = "deeper"
    names = [parameter.name for parameter in hp.space]
    assert names == ["arch", "freeze_depth"]
    make(hp)
    assert [parameter.name for parameter in hp.space] == [*names, "freeze_depth_0_4"]


class TestSchedules:
    def test_each_choice_can_be_had(self):
        for name, schedule in (("even", "even"), ("1", 1), ("2", 2)):
            assert tuning.schedule(fixed(schedule=name)).schedule == schedule

    def test_choices_with_names(self):
        choices = {"late": {0: "head", 8: "block5"}, "soon": 1}
        chosen = tuning.schedule(fixed(schedule="late"), choices=choices, rates=None)
        assert (chosen.schedule, chosen.rates) == (choices["late"], None)

    def test_rates_of_a_schedule(self):
        hp = fixed(schedule="2", rate_factor=4.0)
        chosen = tuning.rates(hp, schedule=tuning.schedule(hp, batch_norm="follow"))
        assert (chosen.schedule, chosen.rates, chosen.batch_norm) == (2, 4.0, "follow")

    def test_rates_with_options(self):
        chosen = tuning.rates(fixed(rate_factor=1.6), schedule=1, verbose=0)
        assert (chosen.schedule, chosen.rates, chosen.verbose) == (1, 1.6, 0)

    def test_they_train(self, plain):
        hp = keras_tuner.HyperParameters()
        model = plain()
        model.compile("sgd", "sparse_categorical_crossentropy")
        callback = tuning.rates(hp, schedule=tuning.schedule(hp, verbose=0))
        model.fit(np.ones((4, 4)), np.zeros(4), epochs=3, verbose=0, callbacks=[callback])
        assert len(model.trainable_variables) == 6

    def test_other_choices_under_the_same_name(self):
        hp = keras_tuner.HyperParameters()
        tuning.schedule(hp, choices=[1, 2])
        tuning.rates(hp, choices=[1.0, 2.0])
        with pytest.raises(ValueError, match=r"schedule\(name=...\) must be a name of its own"):
            tuning.schedule(hp, choices=[3, 4])
        with pytest.raises(ValueError, match=r"rates\(name=...\) must be a name of its own"):
            tuning.rates(hp, choices=[3.0, 4.0])

    @pytest.mark.parametrize("choices", [[], [1, 1], {}])
    def test_no_choice_or_one_twice(self, choices):
        with pytest.raises(ValueError, match=r"schedule\(choices=...\) must contain at least one"):
            tuning.schedule(keras_tuner.HyperParameters(), choices=choices)

    def test_options_beside_a_callback(self):
        with pytest.raises(ValueError, match="no options of GradualUnfreeze beside a"):
            tuning.rates(
                keras_tuner.HyperParameters(), schedule=kf.GradualUnfreeze(), batch_norm="train"
            )


class Trial:
    """A trial of Optuna, as far as its suggestions go."""

    def suggest_int(self, name, low, high):
        return high

    def suggest_categorical(self, name, choices):
        return choices[-1]


class Adapter:
    def __init__(self, trial):
        self.trial = trial

    def Int(self, name, min_value, max_value):
        return self.trial.suggest_int(name, min_value, max_value)

    def Choice(self, name, values):
        return self.trial.suggest_categorical(name, values)


def test_another_tuner(plain):
    hp = Adapter(Trial())
    assert tuning.freeze_depth(hp, plain()) == 2
    assert tuning.rates(hp, schedule=tuning.schedule(hp)).rates == 4.0
