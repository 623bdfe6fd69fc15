"""`Auto`, as a pure value: what goes in are the metrics of phases, what comes out the next."""

import math

import pytest
from hypothesis import given, strategies as st

from keras_freeze.checks import ArgumentError
from keras_freeze.schedules import AfterEpochs, Auto, OnPlateau, Outcome
from keras_freeze.schedules.adaptive import AdaptivePlan, Setting
from keras_freeze.schedules.race import _rounds

NAMES = ("block1", "block2", "block3", "head")


def plan_of(auto, groups=NAMES, epochs=40):
    return AdaptivePlan(auto, Setting(tuple(groups), epochs))


def depth_of(decision):
    return len(decision.phase.frozen)


def played(plan, value):
    """Return the decisions of a training whose metric is `value(depth, epochs of the depth)`."""
    outcomes, epochs, found = [], {}, []
    while not found or not (found[-1].is_final or found[-1].phase is None):
        found.append(plan.decide(outcomes))
        phase = found[-1].phase
        if phase is None or found[-1].is_final:
            break
        depth = len(phase.frozen)
        until = phase.until
        length = until.epochs if isinstance(until, AfterEpochs) else until.patience
        begun = epochs.get(depth, 0)
        outcomes.append(Outcome(tuple(value(depth, begun + n) for n in range(length))))
        epochs[depth] = begun + length
    return found, outcomes


@pytest.mark.parametrize(
    ("count", "available", "rounds"),
    [
        (2, 2, [1]),
        (2, 5, [2]),
        (3, 5, [1, 1]),
        (6, 11, [1, 1, 1]),
        (6, 13, [1, 1, 2]),
        (6, 24, [2, 2, 3]),
        (6, 10, []),
        (2, 1, []),
    ],
)
def test_the_epochs_of_the_rounds(count, available, rounds):
    assert _rounds(count, available) == rounds


@given(count=st.integers(2, 40), available=st.integers(0, 400))
def test_a_race_keeps_to_its_budget(count, available):
    rounds, sizes = _rounds(count, available), []
    while count > 1:
        sizes.append(count)
        count = math.ceil(count / 2)
    spent = sum(size * epochs for size, epochs in zip(sizes, rounds, strict=False))
    assert spent <= available
    assert bool(rounds) == (available >= sum(sizes))
    assert all(epochs >= 1 for epochs in rounds)


def test_a_race_drops_the_worse_half_until_one_is_left():
    best = {3: 2.2, 2: 1.9, 1: 2.0, 0: 2.1}
    found, _ = played(plan_of(Auto(), epochs=18), lambda depth, epoch: best[depth] - 0.01 * epoch)
    assert [depth_of(decision) for decision in found] == [3, 2, 1, 0, 2, 1, 2]
    assert [decision.labels for decision in found[:3]] == [
        (("candidate", 0),),
        (("candidate", 1),),
        (("candidate", 2),),
    ]
    assert [f.what for f in found[4].evidence] == ["depth 3 is dropped", "depth 0 is dropped"]
    assert found[4].evidence[0].value == 2.2
    assert found[4].evidence[0].threshold == 2.0
    assert found[-1].is_final
    assert found[-1].phase.until is None


@given(data=st.data())
def test_states_are_kept_as_long_as_they_are_needed(data):
    """Whatever the metric does: each depth goes on where it was, and nothing is kept in vain."""
    groups = data.draw(st.integers(2, 12))
    auto = Auto(
        budget=data.draw(st.sampled_from([0.2, 1 / 3, 0.7])),
        mode=data.draw(st.sampled_from(["min", "max"])),
        min_gain=data.draw(st.sampled_from([0.0, 0.3])),
    )
    numbers = st.one_of(st.floats(-2, 2), st.just(math.nan), st.just(math.inf))
    names = [f"g{n}" for n in range(groups - 1)] + ["head"]
    plan = plan_of(auto, names, epochs=data.draw(st.integers(10, 90)))
    found, outcomes = played(plan, lambda depth, epoch: data.draw(numbers))
    kept, now = {}, "start"
    for decision, depth in zip(found, map(depth_of, found), strict=True):
        if decision.keeps is not None:
            kept[decision.keeps] = now
        if decision.returns_to is not None:
            now = kept[decision.returns_to]  # which must be there
        for name in decision.forgets:
            kept.pop(name, None)
        # A depth begins as all do, or goes on where it was.
        assert now in ("start", depth)
        now = depth
    assert not kept
    spent = sum(len(outcome.values) for outcome in outcomes)
    assert spent <= auto.budget * plan.setting.epochs
    # Wherever it is cut off, the state of the best depth so far is there to return to.
    ended = plan.conclude(outcomes[: data.draw(st.integers(1, len(outcomes)))])
    assert ended.is_final


def test_where_the_epochs_are_too_few_for_all_depths_some_are_left_out():
    names = [f"block{n}" for n in range(10)] + ["head"]
    first = plan_of(Auto(), names, epochs=15).schedule.outline(
        plan_of(Auto(), names, epochs=15).setting
    )
    assert [len(phase.frozen) for phase in first.phases] == [10, 5, 0]


def test_a_race_needs_an_epoch_of_each_of_two_depths():
    with pytest.raises(ArgumentError, match=r"Auto\(budget=\.\.\.\) must be enough .* 6 epochs"):
        plan_of(Auto(), epochs=5).decide([])


def test_of_equal_depths_the_deepest_wins():
    found, _ = played(plan_of(Auto()), lambda depth, epoch: 1.0)
    assert depth_of(found[-1]) == 3


def test_each_further_group_has_to_bring_the_least_gain():
    value = {3: 2.0, 2: 1.95, 1: 1.9, 0: 1.0}
    found, _ = played(plan_of(Auto(min_gain=0.06)), lambda depth, epoch: value[depth])
    assert depth_of(found[-1]) == 0
    value[0] = 1.85
    found, _ = played(plan_of(Auto(min_gain=0.06)), lambda depth, epoch: value[depth])
    assert depth_of(found[-1]) == 3


def test_a_metric_that_is_to_rise():
    found, _ = played(plan_of(Auto(monitor="val_accuracy")), lambda depth, epoch: 0.1 * depth)
    assert depth_of(found[-1]) == 3


def test_what_is_no_number_never_wins():
    found, _ = played(plan_of(Auto()), lambda depth, epoch: math.nan if depth else 5.0)
    assert depth_of(found[-1]) == 0


def test_a_race_that_is_to_stop_ends_where_the_winner_stalls():
    found, _ = played(plan_of(Auto(then="stop", stall=4)), lambda depth, epoch: depth)
    assert found[-1].phase.until == OnPlateau("val_loss", 4, mode="min")


def test_a_race_that_is_cut_off_ends_with_its_best():
    plan = plan_of(Auto())
    outcomes = [Outcome((2.0,)), Outcome((1.5,)), Outcome((1.8,))]
    ended = plan.conclude(outcomes)
    assert (depth_of(ended), ended.returns_to) == (2, "2")
    ended = plan.conclude([*outcomes[:2], Outcome((1.1,))])
    assert (depth_of(ended), ended.returns_to) == (1, None)


def test_the_verdict_of_a_race():
    best = {3: 2.2, 2: 1.9, 1: 2.0, 0: 2.1}
    plan = plan_of(Auto(), epochs=18)
    _, outcomes = played(plan, lambda depth, epoch: best[depth])
    assert plan.verdict(outcomes) == (
        "depth 2 of 3: head and block3 train; val_loss in the race: 2.2 (depth 3), 1.9 (depth 2), "
        "2 (depth 1), 2.1 (depth 0)"
    )


SEQUENCES = {
    "a gain, then none": (Auto("sequence"), {3: 2.0, 2: 1.5, 1: 1.6}, [3, 2, 1, 2]),
    "all gain": (Auto("sequence"), {3: 2.0, 2: 1.5, 1: 1.4, 0: 1.3}, [3, 2, 1, 0, 0]),
    "the head alone": (Auto("sequence"), {3: 2.0, 2: 2.0}, [3, 2, 3]),
    "patient": (Auto("sequence", patience=2), {3: 2.0, 2: 2.1, 1: 1.0, 0: 1.5}, [3, 2, 1, 0, 1]),
    "too small a gain": (Auto("sequence", min_gain=0.6), {3: 2.0, 2: 1.5}, [3, 2, 3]),
    "no number": (Auto("sequence"), {3: 2.0, 2: math.nan}, [3, 2, 3]),
    "no number at first": (
        Auto("sequence"),
        {3: math.nan, 2: 2.0, 1: 1.0, 0: 1.5},
        [3, 2, 1, 0, 1],
    ),
}


@pytest.mark.parametrize(("auto", "values", "depths"), SEQUENCES.values(), ids=SEQUENCES)
def test_one_more_group_as_long_as_that_brings_a_gain(auto, values, depths):
    found, _ = played(plan_of(auto), lambda depth, epoch: values[depth])
    assert [depth_of(decision) for decision in found] == depths
    gained = depths[-2] == depths[-1]
    assert found[-1].returns_to == (None if gained else "best")
    assert found[-1].phase.until is None


def test_a_sequence_that_is_to_stop_has_no_last_phase():
    plan = plan_of(Auto("sequence", then="stop"))
    found, outcomes = played(plan, lambda depth, epoch: {3: 2.0, 2: 1.5, 1: 1.6}[depth])
    assert found[-1].phase is None
    ended = plan.conclude(outcomes)
    assert (depth_of(ended), ended.returns_to) == (2, "best")
    assert plan.verdict(outcomes) == (
        "depth 2 of 3: head and block3 train; val_loss 2 with head alone, -0.5 by unfreezing "
        "block3, +0.1 by unfreezing block2"
    )


def test_a_sequence_that_was_cut_off_says_what_was_not_tried():
    plan = plan_of(Auto("sequence"))
    two = [Outcome((2.0,)), Outcome((0.97,))]
    assert plan.verdict(two).endswith(
        "-1.03 by unfreezing block3; block2 and block1 were not tried"
    )
    assert plan.verdict([*two, Outcome((0.5,))]).endswith("; block1 was not tried")
    assert plan.verdict([*two, Outcome((0.98,))]).endswith("+0.01 by unfreezing block2")


@pytest.mark.parametrize(
    ("epochs", "remarks"),
    [
        (12, ("GradualUnfreeze: depths 3 and 0 of 0 to 3 race; a fit of 18 epochs or more has "
              "them all.",)),
        (17, ("GradualUnfreeze: depths 3, 2 and 0 of 0 to 3 race; a fit of 18 epochs or more has "
              "them all.",)),
        (18, ()),
    ],
)  # fmt: skip
def test_a_race_says_which_depths_are_left_out(epochs, remarks):
    assert Auto().remarks(Setting(NAMES, epochs)) == remarks
    found, _ = played(plan_of(Auto(), epochs=epochs), lambda depth, epoch: depth)
    assert (len({depth_of(decision) for decision in found}) == 4) == (not remarks)
    assert Auto("sequence").remarks(Setting(NAMES, epochs)) == ()


def test_a_sequence_says_what_each_group_brought():
    """Compared with the last gain, not with a better value that was too little of a gain."""
    plan = plan_of(Auto("sequence", min_gain=0.1, patience=2))
    values = {3: 0.9, 2: 0.85, 1: 0.83}
    found, outcomes = played(plan, lambda depth, epoch: values[depth])
    told = [(f.what, f.value, f.threshold) for d in found for f in d.evidence]
    assert told == [
        ("head alone", 0.9, None),
        ("block3 brings no gain", 0.85, 0.9),
        ("block2 brings no gain", 0.83, 0.9),
        ("depth 3 is the best", 0.9, None),
    ]
    assert "-0.05 by unfreezing block3, -0.07 by unfreezing block2" in plan.verdict(outcomes)


def test_what_a_depth_needed_includes_the_least_gain():
    value = {3: 2.0, 2: 2.4, 1: 2.5, 0: 1.95}
    found, _ = played(plan_of(Auto(min_gain=0.1)), lambda depth, epoch: value[depth])
    told = {f.what: (f.value, f.threshold) for d in found for f in d.evidence}
    assert told["depth 0 is dropped"] == (1.95, pytest.approx(1.7))
    for value, needed in told.values():
        assert needed is None or value >= needed


def test_a_sequence_forgets_its_state_where_it_is_not_needed():
    for values in ({3: 2.0, 2: 1.5, 1: 1.6}, {3: 2.0, 2: 1.5, 1: 1.4, 0: 1.3}):
        found, _ = played(plan_of(Auto("sequence")), lambda depth, epoch, own=values: own[depth])
        assert found[-1].forgets == ("best",)


def test_a_sequence_that_is_cut_off_keeps_a_gain_and_undoes_a_loss():
    plan = plan_of(Auto("sequence"))
    gain = plan.conclude([Outcome((2.0, 1.9)), Outcome((1.8,))])
    assert (depth_of(gain), gain.returns_to) == (2, None)
    loss = plan.conclude([Outcome((2.0, 1.9)), Outcome((1.95,))])
    assert (depth_of(loss), loss.returns_to) == (3, "best")
    nothing = plan.conclude([Outcome((2.0, 1.9)), Outcome(())])
    assert (depth_of(nothing), nothing.returns_to) == (3, "best")
