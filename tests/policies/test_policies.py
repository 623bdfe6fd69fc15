"""Policies select what they say, combine like sets, and are values."""

import copy
import functools
import pickle
from zlib import crc32

import keras
import numpy as np
import pytest
from hypothesis import given, strategies as st

import keras_freeze as kf
from keras_freeze import policies
from keras_freeze.model_picture import every_layer, read_model, weights_of
from keras_freeze.policies import (
    FreezeBefore,
    FreezeFirst,
    FreezeGroups,
    FreezeLayers,
    FreezeMatching,
    FreezeWeights,
    FreezeWhere,
    selection,
)


def is_bias(variable, layer):
    return variable.name == "bias"


def is_head(variable, layer):
    return layer.name == "head"


def selected(model, policy):
    """Return what a policy selects: (layer, variable) names, and names of weightless layers."""
    selection = policy.select(model)
    names = {id(w.variable): (w.layer.name, w.variable.name) for w in weights_of(model)}
    layers = {
        id(layer): layer.name
        for layer in every_layer(model)
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
    }
    return (
        {names[i] for i in selection.variables},
        {layers[i] for i in selection.layers if i in layers},
    )


def owners(model, policy):
    """Return the names of the layers that own the variables that a policy selects."""
    return {layer for layer, _ in selected(model, policy)[0]}


SELECTIONS = {  # in layers low, middle, head
    "first": (FreezeFirst(2), {"low", "middle"}),
    "first none": (FreezeFirst(0), set()),
    "first all": (FreezeFirst(3), {"low", "middle", "head"}),
    "first but one": (FreezeFirst(-1), {"low", "middle"}),
    "first but all": (FreezeFirst(-3), set()),
    "index": (FreezeLayers([0]), {"low"}),
    "index from the end": (FreezeLayers([-1]), {"head"}),
    "index and name": (FreezeLayers([1, "low"]), {"low", "middle"}),
    "before a layer": (FreezeBefore("middle"), {"low"}),
    "before the first": (FreezeBefore("low"), set()),
    "matching a layer": (FreezeMatching("^(low|head)$"), {"low", "head"}),
    "matching a path": (FreezeMatching("^middle/kernel"), {"middle"}),
    "matching everything": (FreezeMatching("."), {"low", "middle", "head"}),
    "where": (FreezeWhere(lambda variable, layer: layer.units == 5), {"middle"}),
    "where nothing": (FreezeWhere(lambda variable, layer: False), set()),
    "a pattern of groups": (FreezeGroups("low|mid.*"), {"low", "middle"}),
    "weights of a part": (FreezeWeights("kernel", FreezeGroups(["low"])), {"low"}),
    "either": (FreezeFirst(1) | FreezeLayers(["head"]), {"low", "head"}),
    "both": (FreezeFirst(2) & FreezeMatching("middle|head"), {"middle"}),
    "not": (~FreezeMatching("middle"), {"low", "head"}),
    "callable on the right": (FreezeFirst(1) | is_head, {"low", "head"}),
    "callable on the left": (is_head | FreezeFirst(1), {"low", "head"}),
    "both with a callable": (FreezeFirst(3) & is_head, {"head"}),
    "both with a callable on the left": (is_head & ~FreezeFirst(1), {"head"}),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selection(plain, case):
    policy, expected = SELECTIONS[case]
    assert owners(plain(), policy) == expected


GROUPS = {"low": "low", "top": ["middle", "head"]}
GROUP_SELECTIONS = {
    "one": (FreezeGroups(1, GROUPS), {"low"}),
    "none": (FreezeGroups(0, GROUPS), set()),
    "all but one": (FreezeGroups(-1, GROUPS), {"low"}),
    "name": (FreezeGroups("top", GROUPS), {"middle", "head"}),
    "names": (FreezeGroups(["top", "low"], GROUPS), {"low", "middle", "head"}),
    "head means the last": (FreezeGroups(["head"], GROUPS), {"middle", "head"}),
}


@pytest.mark.parametrize("case", GROUP_SELECTIONS)
def test_selection_of_groups(plain, case):
    policy, expected = GROUP_SELECTIONS[case]
    assert owners(plain(), policy) == expected


def test_before_takes_groups_layers_and_counts(batch_norm):
    model = batch_norm()
    block1 = {"block1_conv", "block1_bn"}
    assert owners(model, FreezeBefore("block2")) == block1
    assert owners(model, FreezeBefore(1)) == block1
    assert owners(model, FreezeBefore(-1)) == block1 | {"block2_conv", "block2_bn"}
    assert owners(model, FreezeBefore("block2_bn")) == block1 | {"block2_conv"}
    assert owners(model, FreezeBefore("head")) == owners(model, FreezeGroups(-1))


def test_only_what_can_be_trained_is_selected(batch_norm):
    variables, layers = selected(batch_norm(), FreezeMatching("."))
    assert ("block1_bn", "gamma") in variables
    assert not any("moving" in name for _, name in variables)
    assert layers == {"block1_relu", "block1_pool", "block2_relu", "pool"}


@pytest.mark.parametrize("pattern", ["plain", "^plain"])
def test_a_pattern_does_not_search_the_name_of_the_model_itself(plain, pattern):
    """A Sequential puts its name before the path of each variable."""
    model = plain()
    assert all(v.path.startswith("plain/") for v in model.weights)
    with pytest.raises(ValueError, match="must match"):
        FreezeMatching(pattern).select(model)


class OwnWeights(keras.Model):
    """A model that holds a weight outside its layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.low = keras.layers.Dense(3, name="low")
        self.top = keras.layers.Dense(2, name="top")
        self.scale = self.add_weight(shape=(3,), name="scale", initializer="ones")

    def call(self, x):
        return self.top(self.scale * self.low(x))


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_weight_outside_all_layers_comes_with_the_first(is_nested):
    inner = OwnWeights(name="inner")
    inner(keras.ops.ones((1, 4)))
    model = inner
    if is_nested:
        model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="head")])
    for policy in (FreezeFirst(1), FreezeBefore("top"), FreezeFirst(2) & ~FreezeLayers(["top"])):
        assert ("inner", "scale") in selected(model, policy)[0]
        assert ("top", "kernel") not in selected(model, policy)[0]
    assert selected(model, FreezeFirst(0)) == (set(), set())
    assert selected(model, FreezeMatching("scale"))[0] == {("inner", "scale")}


NESTED_CASES = {
    "first": FreezeFirst(4),
    "negative first": FreezeFirst(-2),
    "groups": FreezeGroups(1),
    "group": FreezeGroups(["block2"]),
    "before a group": FreezeBefore("block2"),
    "before a layer": FreezeBefore("block2_bn"),
    "before the head": FreezeBefore("head"),
    "indices": FreezeLayers([1, 2, -1]),
    "names": FreezeLayers(["block1_conv", "block2_bn"]),
    "matching": FreezeMatching("block1|relu"),
    "matching a path": FreezeMatching("bn/gamma"),
    "where": FreezeWhere(lambda variable, layer: layer.name.endswith("conv")),
    "combined": FreezeFirst(5) & ~FreezeMatching("bn"),
}


@pytest.mark.parametrize("case", NESTED_CASES)
def test_a_nested_backbone_selects_as_an_inlined_one(batch_norm, nested, case):
    policy = NESTED_CASES[case]
    inlined = selected(batch_norm(), policy)
    assert inlined[0]
    assert selected(nested(), policy) == inlined


def test_the_name_of_a_nested_model_means_all_of_it(nested):
    model = nested()
    every = selected(model, FreezeBefore("pool"))
    assert selected(model, FreezeLayers(["backbone"])) == every
    assert selected(model, FreezeMatching("^backbone$")) == every


def test_a_shared_layer_is_selected_whole(multi_input):
    assert owners(multi_input(), FreezeBefore("trunk")) == {"shared"}


# Algebra.


@functools.cache
def model_of_all_kinds():
    """A nested backbone with dropout and BatchNorm, one without gamma and beta."""
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="low"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.BatchNormalization(center=False, scale=False, name="whiten"),
            keras.layers.Dropout(0.5, name="drop"),
        ],
        name="backbone",
    )
    return keras.Sequential(
        [keras.Input((4,)), backbone, keras.layers.Dense(3, name="fc"), keras.layers.Dense(2)],
        name="kinds",
    )


@st.composite
def leaves(draw):
    """Return any single policy with arguments that fit the model of all kinds."""
    names = ["low", "norm", "whiten", "drop", "fc", "backbone"]
    salt = draw(st.integers(0, 99))
    return draw(
        st.one_of(
            st.integers(-6, 6).map(FreezeFirst),
            st.sampled_from([0, 1, -1]).map(FreezeGroups),
            st.sampled_from(["low", "fc", "head"]).map(FreezeBefore),
            st.lists(st.one_of(st.integers(-6, 5), st.sampled_from(names)), min_size=1).map(
                FreezeLayers
            ),
            st.sampled_from(["o", "^fc$", "norm|low", "kernel", "."]).map(FreezeMatching),
            st.just(
                FreezeWhere(lambda v, layer: crc32(f"{salt}{layer.name}{v.name}".encode()) % 2 == 0)
            ),
        )
    )


def combined(children):
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda pair: ("or", *pair)),
        pairs.map(lambda pair: ("and", *pair)),
        children.map(lambda child: ("not", child)),
    )


def as_policy(tree):
    if isinstance(tree, policies.FreezePolicy):
        return tree
    kind, *parts = tree[0], *map(as_policy, tree[1:])
    return {"or": lambda a, b: a | b, "and": lambda a, b: a & b, "not": lambda a: ~a}[kind](*parts)


def as_set(tree, model, everything):
    if isinstance(tree, policies.FreezePolicy):
        selection = tree.select(model)
        return selection.variables | selection.layers
    kind, *parts = tree[0], *(as_set(part, model, everything) for part in tree[1:])
    if kind == "not":
        return everything - parts[0]
    return parts[0] | parts[1] if kind == "or" else parts[0] & parts[1]


@given(st.recursive(leaves(), combined, max_leaves=6))
def test_policies_combine_like_sets(tree):
    model = model_of_all_kinds()
    all_of_it = selection.everything(read_model(model))
    everything = all_of_it.variables | all_of_it.layers
    selected = as_policy(tree).select(model)
    assert selected.variables <= all_of_it.variables
    assert selected.layers <= all_of_it.layers
    assert selected.variables | selected.layers == as_set(tree, model, everything)


@given(leaves())
def test_each_policy_selects_only_what_can_be_trained(policy):
    model = model_of_all_kinds()
    all_of_it = selection.everything(read_model(model))
    selected = policy.select(model)
    assert selected.variables <= all_of_it.variables
    assert selected.layers <= all_of_it.layers


# Contract: each policy is a value.

VALUES = {
    FreezeFirst: FreezeFirst(2),
    FreezeGroups: FreezeGroups(["low"]),
    FreezeBefore: FreezeBefore("head"),
    FreezeLayers: FreezeLayers([0, "head"]),
    FreezeMatching: FreezeMatching("^low"),
    FreezeWeights: FreezeWeights(["kernel"], FreezeFirst(2)),
    FreezeWhere: FreezeWhere(is_bias),
}
COMBINED = {
    "either": FreezeFirst(1) | FreezeLayers(["head"]),
    "both": FreezeFirst(1) & is_bias,
    "not": ~FreezeMatching("low"),
}
EVERY_VALUE = {**{cls.__name__: value for cls, value in VALUES.items()}, **COMBINED}


def test_the_contract_covers_every_exported_policy():
    exported = {getattr(policies, name) for name in policies.__all__}
    classes = {x for x in exported if isinstance(x, type) and issubclass(x, policies.FreezePolicy)}
    assert set(VALUES) == classes - {policies.FreezePolicy}


@pytest.fixture(params=EVERY_VALUE)
def value(request):
    return EVERY_VALUE[request.param]


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_equals_the_original(value, clone, plain):
    twin = clone(value)
    assert twin == value
    assert hash(twin) == hash(value)
    assert repr(twin) == repr(value)
    model = plain()
    assert twin.select(model) == value.select(model)


def test_a_policy_is_frozen(value):
    with pytest.raises(AttributeError):
        value.count = 1


def test_different_policies_differ():
    assert len(set(EVERY_VALUE.values())) == len(EVERY_VALUE)
    assert FreezeFirst(1) != FreezeFirst(2)
    assert FreezeLayers([0]) == FreezeLayers((0,))


@pytest.mark.parametrize("cls", [cls for cls in VALUES if cls is not FreezeWhere])
def test_the_representation_is_the_call(cls):
    assert eval(repr(VALUES[cls])) == VALUES[cls]


@pytest.mark.parametrize(
    ("of_numpy", "of_python"),
    [
        (FreezeFirst(np.int64(2)), FreezeFirst(2)),
        (FreezeGroups(np.int32(1)), FreezeGroups(1)),
        (FreezeBefore(np.int64(2)), FreezeBefore(2)),
        (FreezeLayers([np.int64(0), "head"]), FreezeLayers([0, "head"])),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_an_int_of_numpy_is_an_int(of_numpy, of_python, plain):
    assert repr(of_numpy) == repr(of_python)
    model = plain()
    assert of_numpy.select(model) == of_python.select(model)


def test_a_policy_keeps_no_hold_on_the_list_it_was_given(plain):
    given_names = ["low"]
    policy = FreezeLayers(given_names)
    given_names.append("head")
    assert owners(plain(), policy) == {"low"}


def test_one_policy_serves_several_models(plain, batch_norm):
    policy = FreezeBefore("head")
    assert owners(plain(), policy) == {"low", "middle"}
    assert owners(batch_norm(), policy) >= {"block1_conv", "block2_conv"}


@pytest.mark.backend
def test_selecting_changes_nothing(any_model):
    model = any_model()
    before = [v.trainable for v in model.weights], [x.trainable for x in model.layers]
    (~FreezeFirst(1) | is_bias).select(model)
    assert before == ([v.trainable for v in model.weights], [x.trainable for x in model.layers])


@pytest.mark.backend
def test_a_policy_of_ones_own_is_one_small_class(plain):
    class FreezeWide(policies.FreezePolicy):
        def select_in(self, picture):
            return selection.of_layers(picture, [x for x in picture.opened if x.units > 4])

    assert owners(plain(), FreezeWide()) == {"low", "middle"}
    assert owners(plain(), ~FreezeWide() | FreezeFirst(1)) == {"low", "head"}


def test_a_policy_that_selects_in_a_model_still_works(plain):
    with pytest.warns(DeprecationWarning, match=r"FreezeWide\.select\(model\)") as caught:

        class FreezeWide(policies.FreezePolicy):
            def select(self, model):
                return FreezeLayers([x.name for x in model.layers if x.units > 4]).select(model)

    assert [warning.filename for warning in caught] == [__file__]
    assert owners(plain(), FreezeWide()) == {"low", "middle"}
    assert owners(plain(), ~FreezeWide()) == {"head"}


def test_a_policy_of_ours_may_be_narrowed_by_its_old_method(plain):
    with pytest.warns(DeprecationWarning, match="OnlyBiases"):

        class OnlyBiases(FreezeGroups):
            def select(self, model):
                chosen = super().select(model)
                biases = {id(v) for v in model.weights if v.name == "bias"}
                return type(chosen)(chosen.variables & biases, chosen.layers)

    model = plain()
    for policy in (OnlyBiases(2), OnlyBiases(2) & FreezeGroups(2), ~~OnlyBiases(2)):
        kf.unfreeze(model, matching=".")
        frozen = kf.freeze(model, policy).frozen
        assert frozen == ("plain/low/bias", "plain/middle/bias")


def test_a_policy_without_a_method_says_which_it_needs(plain):
    with pytest.raises(NotImplementedError, match="`select_in`"):
        policies.FreezePolicy().select(plain())


def test_before_a_group_by_its_old_name_is_before_the_whole_group():
    layers = keras.layers
    inputs = keras.Input((6,))
    x = layers.Dense(4)(layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4)(x)))
    first, second, _ = kf.layer_groups(model)
    assert (first.name, first.first_layer) == ("group0", model.layers[2].name)
    assert FreezeBefore(first.first_layer).select(model) == FreezeBefore(0).select(model)
    assert FreezeBefore(second.first_layer).select(model) == FreezeBefore(1).select(model)
