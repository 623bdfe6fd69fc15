"""The well-known schedules: what is frozen in each phase, by names and for real models."""

import dataclasses

import pytest

import keras_freeze as kf
from keras_freeze import schedules
from keras_freeze.schedules import AfterEpochs, Cosine, OnPlateau, Phase
from keras_freeze.schedules.builders import PhaseSettings

NAMES = ["block1", "block2", "block3", "head"]
B1, B2, B3, HEAD = NAMES
PLATEAU = OnPlateau("val_loss")

BUILDERS = {  # what each freezes of four groups, what ends its phases, and its rates
    "gradual": ([(B1, B2, B3), (B1, B2), (B1,), ()], AfterEpochs(1), "default"),
    "linear_probe_then_fine_tune": ([(B1, B2, B3), ()], PLATEAU, "default"),
    "chain_thaw": (
        [(B1, B2, B3), (B2, B3, HEAD), (B1, B3, HEAD), (B1, B2, HEAD), ()],
        PLATEAU,
        None,
    ),
    "progressive_freeze": ([(), (B1,), (B1, B2), (B1, B2, B3)], AfterEpochs(1), "default"),
}


@pytest.fixture(params=BUILDERS)
def name(request):
    return request.param


def test_by_names(name):
    frozen, until, rates = BUILDERS[name]
    schedule = getattr(schedules, name)(NAMES)
    assert [phase.frozen for phase in schedule.phases] == frozen
    assert [phase.until for phase in schedule.phases] == [until] * (len(frozen) - 1) + [None]
    assert {phase.rates for phase in schedule.phases} == {rates}
    assert {phase.batch_norm for phase in schedule.phases} == {"frozen"}
    assert (schedule.start, schedule.groups) == (0, ())


def test_with_arguments(name):
    frozen, _, _ = BUILDERS[name]
    schedule = getattr(schedules, name)(
        tuple(NAMES),
        3,
        last=OnPlateau("loss"),
        rates=2.0,
        batch_norm="follow",
        restore_best=True,
        curve=Cosine(),
        weights="kernel",
    )
    shared = {
        "rates": 2.0,
        "batch_norm": "follow",
        "restore_best": True,
        "curve": Cosine(),
        "weights": "kernel",
    }
    expected = [Phase(names, until=3, **shared) for names in frozen[:-1]]
    expected.append(Phase(frozen[-1], until=OnPlateau("loss"), **shared))
    assert schedule.phases == tuple(expected)


@pytest.mark.parametrize(
    "until", [2, PLATEAU | 4, lambda logs: True], ids=["int", "or", "function"]
)
def test_any_trigger_ends_the_phases(name, until):
    schedule = getattr(schedules, name)(NAMES, until)
    assert {phase.until for phase in schedule.phases[:-1]} == {Phase(until=until).until}


MODELS = {
    "plain": {"low": 30, "middle": 35, "head": 18},
    "nested": {"block1": 88, "block2": 240, "head": 21},
    "batch_norm": {"block1": 88, "block2": 240, "head": 21},
    "recurrent": {"group0": 44, "group1": 200, "group2": 220, "head": 18},
}


@pytest.mark.parametrize("model", MODELS)
def test_for_a_model_it_is_the_same_as_for_the_names_of_its_groups(name, model, request):
    built = request.getfixturevalue(model)()
    groups = MODELS[model]
    schedule = getattr(schedules, name)(built)
    assert schedule == getattr(schedules, name)(list(groups))
    assert schedule.groups == tuple(groups.items())
    for phase in schedule.phases:
        selected = phase.policy().select(built).variables
        wholly = [g.name for g in kf.layer_groups(built) if {id(v) for v in g.variables} & selected]
        assert tuple(wholly) == phase.frozen


def test_the_division_may_be_given(name, plain):
    schedule = getattr(schedules, name)(plain(), groups={"trunk": "low|middle", "top": "head"})
    assert schedule.phases[0].frozen == (() if name == "progressive_freeze" else ("trunk",))
    assert schedule.groups == (("trunk", 65), ("top", 18))


def test_two_groups_are_the_least(name):
    assert getattr(schedules, name)(["body", "head"]).phases[-1].until is None
    for given in (["head"], [], "block1"):
        with pytest.raises(ValueError, match=rf"^{name}\(model=\.\.\.\) must have at least two"):
            getattr(schedules, name)(given)
    for given in (3, [1, 2], None):
        with pytest.raises(TypeError, match=rf"^{name}\(model=\.\.\.\) must be a keras.Model, its"):
            getattr(schedules, name)(given)


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("patience", "Settings of its"),
        ("rate", "Did you mean 'rates'"),
        ("frozen", ""),
        ("source", ""),
    ],
)
def test_an_unknown_setting_of_a_phase_is_refused(name, setting, advice):
    message = rf"^{name}\(\) got an unexpected keyword argument '{setting}'\. .*{advice}"
    with pytest.raises(TypeError, match=message):
        getattr(schedules, name)(NAMES, **{setting: None})


def test_the_settings_are_arguments_of_a_phase():
    fields = {field.name: field for field in dataclasses.fields(Phase)}
    assert set(PhaseSettings.__annotations__) < set(fields)
    for setting, annotation in PhaseSettings.__annotations__.items():
        assert annotation.__forward_arg__ == fields[setting].type


def test_names_must_differ(name):
    with pytest.raises(ValueError, match=rf"^{name}\(model=\.\.\.\) must name each group once"):
        getattr(schedules, name)(["a", "b", "a"])
