"""What is known of a model lives as long as the model, and is void for another train step."""

import gc
import weakref

from keras_freeze.engine.model_state import ModelState, StepRecord, state_of


def step():
    """A function that can be referred to weakly."""


def test_each_model_has_one_state(plain):
    model, other = plain(), plain()
    assert state_of(model) is state_of(model)
    assert state_of(model) is not state_of(other)


def test_a_state_does_not_keep_its_model(plain):
    model = plain()
    state_of(model).freeze_depth = 3
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_nothing_is_known_of_any_step_at_first():
    for record in (ModelState().traced, ModelState().in_force):
        assert not record.is_of(None)
        assert not record.is_of(step)


def test_a_record_is_of_its_own_step_only():
    record = StepRecord.of(step, 1)
    assert record.is_of(step)
    assert not record.is_of(None)
    assert StepRecord.of(None, 1).is_of(None)


def test_a_record_does_not_keep_its_step():
    def local():
        """Goes at once."""

    record = StepRecord.of(local, 1)
    del local
    gc.collect()
    assert record.function() is None


def test_a_step_that_stands_in_for_another_takes_its_records():
    def other():
        """Has the same step inside."""

    state = ModelState(StepRecord.of(step, "traced"), StepRecord.of(step, "flags"))
    state.replace_function(step, other)
    assert state.traced.is_of(other)
    assert state.in_force.is_of(other)
    assert (state.traced.known, state.in_force.known) == ("traced", "flags")
    state.replace_function(step, None)
    assert state.traced.is_of(other)
