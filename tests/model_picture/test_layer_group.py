"""Names of layer groups: by which a group is found, and by which it no longer is."""

import copy
import pickle

import pytest

from keras_freeze.model_picture import GroupNames, LayerGroup, known_group, known_groups


def names_of(*pairs):
    return GroupNames.of(LayerGroup(name, (), (), layer) for name, layer in pairs)


PLAIN = names_of(("low", None), ("upper", None))
BY_PLACE = names_of(("group0", "conv2d_4"), ("block1", None), ("group2", "lstm_7"), ("top", None))
TWINS = names_of(("group0", "conv2d"), ("group1", "conv2d"), ("head", None))


def called(name, names):
    return known_group("owner", "arg", name, names)


def test_names_are_a_plain_sequence_too():
    assert BY_PLACE == ("group0", "block1", "group2", "top")
    for copied in (copy.deepcopy(BY_PLACE), pickle.loads(pickle.dumps(BY_PLACE))):
        assert called("lstm_7", copied) == "group2"


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("low", PLAIN, "low"),
        ("head", PLAIN, "upper"),
        ("head", names_of(("head", None), ("top", None)), "head"),
        ("group2", BY_PLACE, "group2"),
        ("lstm_7", BY_PLACE, "group2"),
        ("conv2d_4", BY_PLACE, "group0"),
        ("head", BY_PLACE, "top"),
        ("low", names_of(("low", None), ("group1", "low")), "low"),
    ],
)
def test_groups_are_found_by_name(name, names, expected):
    assert called(name, names) == expected


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("uper", PLAIN, r"^owner\(arg=...\) must name layer groups of the model. Received: 'uper'. "
         r"Did you mean 'upper'\? Available groups: low, upper\.$"),
        ("lstm_9", BY_PLACE, r"Received: 'lstm_9'. Did you mean 'lstm_7'\? Available groups: "
         r"group0 \(conv2d_4\), block1, group2 \(lstm_7\), top\.$"),
        ("conv2d", TWINS, r"Received: 'conv2d', which is now called 'group0' or 'group1'\."),
        (3, PLAIN, r"Received: 3\. Available"),
    ],
)  # fmt: skip
def test_what_is_no_group_raises_with_what_is(name, names, message):
    with pytest.raises(ValueError, match=message):
        called(name, names)
    with pytest.raises(ValueError, match=message):
        known_groups("owner", "arg", [name], names)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["group[02]"], {"group0": "group[02]", "group2": "group[02]"}),
        ([r"lstm_\d", "conv2d_4"], {"group2": r"lstm_\d", "group0": "conv2d_4"}),
        (["(block1|lstm_7)"], {"block1": "(block1|lstm_7)", "group2": "(block1|lstm_7)"}),
        (["head", "block1"], {"top": "head", "block1": "block1"}),
    ],
)
def test_patterns_match_whole_names_or_first_layers(given, expected):
    assert known_groups("owner", "arg", given, BY_PLACE) == expected


def test_a_group_may_be_named_once():
    with pytest.raises(ValueError, match=r"'group2' and 'lstm_7', which both stand for 'group2'"):
        known_groups("owner", "arg", ["group2", "lstm_7"], BY_PLACE)


def test_a_pattern_finds_groups_by_either_name():
    names = GroupNames(["block", "group1", "group2", "head"])
    names.first_layers = (None, "lstm", "lstm_1", None)
    assert list(known_groups("f", "groups", ["block.*|lstm.*"], names)) == list(names[:3])
    assert list(known_groups("f", "groups", ["lstm.*|head"], names)) == list(names[1:])
    assert list(known_groups("f", "groups", ["lstm"], names)) == ["group1"]
    assert list(known_groups("f", "groups", ["group2 (lstm_1)"], names)) == ["group2"]
