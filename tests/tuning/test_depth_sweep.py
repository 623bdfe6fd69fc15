"""A sweep over the freeze depths: which, in what order, and of what build function."""

import shutil

import keras
import keras_tuner
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, project

from keras_freeze import tuning
from keras_freeze.tuning import spaces


def test_every_depth_the_deepest_first(swept):
    by_id = {row["trial_id"]: row for row in swept.rows()}
    in_order = [by_id[trial_id] for trial_id in swept.oracle.start_order]
    assert [row["freeze_depth"] for row in in_order] == [2, 1, 0]
    assert [row["trainable_params"] for row in in_order] == [18, 53, 83]
    assert [row["non_trainable_params"] for row in in_order] == [65, 30, 0]


def test_each_depth_is_trained_several_times(swept):
    assert all(row["executions"] == 2 and row["score_std"] >= 0 for row in swept.rows())


def test_it_says_what_depth_counts(tmp_path, capsys):
    sweep = tuning.DepthSweep(Untrained(build), max=0, **project(tmp_path))
    sweep.search(X, Y, epochs=1, verbose=2)
    said = "counts layer groups from the input: low, middle. The head (head) always trains."
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("unit", ["layer", "fraction"])
def test_other_units(unit, tmp_path):
    sweep = tuning.DepthSweep(Untrained(build), unit=unit, **project(tmp_path))
    sweep.search(X, Y, epochs=1, verbose=0)
    found = {row["freeze_depth"]: row["trainable_params"] for row in sweep.rows()}
    assert {min(found), max(found)} == {0, 2 if unit == "layer" else 1.0}
    assert sorted(found.values()) == [18, 53, 83]


def test_a_finished_sweep_in_another_process(swept, tmp_path, monkeypatch):
    folder = shutil.copytree(swept.project_dir, tmp_path / "search")
    monkeypatch.setattr(spaces, "_asked", {})  # what a process knows at its beginning
    again = tuning.DepthSweep(lambda: build(), executions_per_trial=2, **project(tmp_path))
    again.search(X, Y, **FIT)
    assert str(folder) == again.project_dir
    assert again.rows() == swept.rows()


def test_a_hypermodel(tmp_path):
    class Declared(Untrained):
        def declare_hyperparameters(self, hp):
            hp.Fixed("declared", 1)

        def build(self, hp):
            assert hp.get("declared") == 1
            return super().build(hp)

    sweep = tuning.DepthSweep(Declared(build), **project(tmp_path))
    sweep.search(X, Y, epochs=1, verbose=0)
    assert {row["freeze_depth"] for row in sweep.rows()} == {0, 1, 2}


def test_arguments_with_defaults_are_left_alone(tmp_path):
    def make(units=3):
        assert units == 3
        return build()

    tuning.DepthSweep(make, **project(tmp_path))


def test_a_depth_beside_a_range(tmp_path):
    with pytest.raises(ValueError, match="for none if min=, max= or backbone= are given"):
        tuning.DepthSweep(build_with_depth, min=1, **project(tmp_path))


def test_two_depths_are_one_too_many(tmp_path):
    def make(hp):
        model = build()
        tuning.freeze_depth(hp, model, name="one")
        tuning.freeze_depth(hp, model, name="two")
        return model

    with pytest.raises(ValueError, match="must ask for at most one freeze depth"):
        tuning.DepthSweep(make, **project(tmp_path))


def test_an_interrupted_sweep_resumes(tmp_path):
    class Killed(BaseException):
        pass

    class Stopping(Untrained):
        is_stopping = True

        def build(self, hp):
            if self.is_stopping and len(list(tmp_path.glob("search/trial_*/best.npz"))) == 1:
                raise Killed
            return super().build(hp)

    sweep = tuning.DepthSweep(Stopping(build), **project(tmp_path))
    with pytest.raises(Killed):
        sweep.search(X, Y, epochs=1, verbose=0)
    finished = [row for row in sweep.rows() if row["score"] is not None]
    assert len(finished) == 1
    again = tuning.DepthSweep(Untrained(build), **project(tmp_path))
    again.search(X, Y, epochs=1, verbose=0)
    rows = {row["freeze_depth"]: row for row in again.rows()}
    assert set(rows) == {0, 1, 2}
    assert rows[2] == finished[0]


def test_the_first_trial_is_begun_again_too(tmp_path, capsys):
    class Kill(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise KeyboardInterrupt

    def new():
        return tuning.DepthSweep(Untrained(build), **project(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        new().search(X, Y, callbacks=[Kill()], epochs=1, verbose=0)
    again = new()
    assert "Reloading" in capsys.readouterr().out
    again.search(X, Y, epochs=1, verbose=0)
    assert [row["status"] for row in again.rows()] == ["COMPLETED"] * 3


def test_a_plain_hypermodel_is_trained(tmp_path):
    class Plain(keras_tuner.HyperModel):
        def build(self, hp):
            return build()

    sweep = tuning.DepthSweep(Plain(), max=0, **project(tmp_path))
    sweep.search(X, Y, **FIT)
    (row,) = sweep.rows()
    assert (row["status"], row["epochs"]) == ("COMPLETED", 2)
