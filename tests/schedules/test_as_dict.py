"""Schedules as plain data: what is written comes back, and what can't be written is refused."""

import json

import numpy as np
import pytest
from any_schedule import SCHEDULES
from hypothesis import given

from keras_freeze import policies, schedules
from keras_freeze.schedules import AfterSteps, FreezeSchedule, OnPlateau, Phase, Warmup
from keras_freeze.schedules.as_dict import fingerprint


class FreezeNothing(policies.FreezePolicy):
    def select_in(self, picture):
        return policies.Selection()


class Never(schedules.Trigger):
    def fired(self, state):
        return False


class Flat(schedules.Curve):
    steps = None

    def factor(self, step, steps):
        return 1.0


def is_bias(variable, layer):
    return variable.name == "bias"


UNWRITABLE = {
    "a callable frozen": (Phase(is_bias), "is_bias"),
    "a callable in a policy": (Phase(policies.FreezeFirst(1) | is_bias), "is_bias"),
    "a callable under weights": (Phase(policies.FreezeWeights("kernel", is_bias)), "is_bias"),
    "a policy of one's own": (Phase(FreezeNothing()), "FreezeNothing"),
    "a callable until": (Phase(until=lambda logs: True), "lambda"),
    "a callable in a trigger": (Phase(until=OnPlateau() | (lambda logs: True)), "lambda"),
    "a trigger of one's own": (Phase(until=Never() | 2), "Never"),
    "a curve of one's own": (Phase(curve=Flat()), "Flat"),
    "a callable division": (Phase(policies.FreezeGroups("a", lambda layer: "a")), "lambda"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_a_file_cant_hold_is_refused(case, tmp_path):
    phase, name = UNWRITABLE[case]
    schedule = FreezeSchedule([phase])
    message = (
        rf"policies, triggers and curves of keras_freeze only\. Received: .*{name}.*Use a name"
    )
    with pytest.raises(TypeError, match=message):
        schedule.to_yaml(tmp_path / "plan.yaml")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=message):
        schedule.to_dict()
    assert name in json.dumps(fingerprint(schedule))  # what a backup compares schedules by


@given(SCHEDULES)
def test_any_schedule_comes_back_from_plain_data(schedule):
    data = json.loads(json.dumps(schedule.to_dict()))
    again = FreezeSchedule.from_dict(data)
    assert again == schedule
    assert again.to_dict() == schedule.to_dict() == fingerprint(schedule)
    assert [phase.trigger for phase in again.phases] == [p.trigger for p in schedule.phases]


def test_numbers_of_numpy_are_written_as_numbers():
    schedule = FreezeSchedule(
        [
            Phase(
                rates={"low": np.float32(0.5)},
                until=AfterSteps(np.int64(7)) | OnPlateau("loss", np.int32(2), np.float64(0.25)),
                curve=Warmup(np.int64(3)),
            )
        ],
        start=np.int64(2),
    )
    data = json.loads(json.dumps(schedule.to_dict()))
    assert FreezeSchedule.from_dict(data) == schedule


def test_plain_data_have_the_same_errors_without_lines():
    data = {
        "schema": 1,
        "phases": [{"frozen": [], "until": {"any": [1, {"plateau": {"mode": 1}}]}}],
    }
    message = r"^phases\[0\]\.until\.any\[1\]\.plateau\.mode: OnPlateau\(mode=\.\.\.\) must be"
    with pytest.raises(ValueError, match=message):
        FreezeSchedule.from_dict(data)
    with pytest.raises(ValueError, match=r"^schedule: must be a mapping"):
        FreezeSchedule.from_dict([])
