"""What is tried next: nothing twice, and smaller rounds where a space is used up."""

import pytest
from small_searches import Untrained, build_with_depth, project

from keras_freeze import tuning
from keras_freeze.keras_internals.keras_tuner import HEARTBEAT
from keras_freeze.tuning import oracles


def depths(rows):
    return sorted(row["values"]["freeze_depth"] for row in rows)


@pytest.mark.parametrize("kind", [tuning.RandomSearch, tuning.BayesianOptimization])
def test_nothing_is_tried_twice_and_a_used_up_space_ends_the_search(kind, tmp_path):
    options = {"max_trials": 9, "seed": 0, **project(tmp_path)}
    tuner = kind(Untrained(build_with_depth), "val_loss", **options)
    tuner.search(verbose=0)
    assert depths(tuner.rows()) == [0, 1, 2]


def test_hyperband_halves_a_small_space_too(tmp_path):
    tuner = tuning.Hyperband(
        Untrained(build_with_depth),
        "val_loss",
        max_epochs=4,
        factor=2,
        seed=0,
        **project(tmp_path),
    )
    tuner.search(verbose=0)
    first = [row for row in tuner.rows() if row["values"]["tuner/round"] == 0]
    assert depths(first) == [0, 1, 2]
    later = [row["values"]["tuner/epochs"] for row in tuner.rows() if row not in first]
    assert later == [2, 2, 4]


def test_many_rounds_of_a_small_space(tmp_path):
    tuner = tuning.Hyperband(
        Untrained(build_with_depth),
        "val_loss",
        max_epochs=2,
        factor=2,
        seed=0,
        hyperband_iterations=2000,
        **project(tmp_path),
    )
    tuner.search(verbose=0)
    first = [row for row in tuner.rows() if row["values"]["tuner/round"] == 0]
    assert depths(first) == [0, 1, 2]


@pytest.mark.parametrize("kind", [tuning.RandomSearch, tuning.BayesianOptimization])
def test_a_seed_of_zero_is_a_seed(kind, tmp_path):
    def build(hp):
        hp.Float("rate", 0.0, 1.0)
        return build_with_depth(hp)

    drawn = []
    for name in ("one", "two"):
        own = {"max_trials": 2, "seed": 0, **project(tmp_path / name)}
        tuner = kind(Untrained(build), "val_loss", **own)
        tuner.search(verbose=0)
        drawn.append([row["values"] for row in tuner.rows()])
    assert drawn[0] == drawn[1]


class TestWorkers:
    """What a chief does with workers that die, come back, or say a thing twice."""

    @pytest.fixture
    def now(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(oracles.time, "monotonic", lambda: clock[0])
        return clock

    def tuner(self, folder, **options):
        return tuning.RandomSearch(
            Untrained(build_with_depth),
            "val_loss",
            seed=1,
            worker_timeout_s=10.0,
            **{"max_trials": 2, **options},
            **project(folder),
        )

    def oracle(self, folder, **options):
        return self.tuner(folder, **options).oracle

    def end(self, oracle, trial, status="COMPLETED"):
        oracle.update_trial(trial.trial_id, {"val_loss": 1.0})
        told = type(trial)(trial.hyperparameters.copy(), trial.trial_id, status)
        oracle.end_trial(told)

    def test_the_trial_of_a_silent_worker_goes_to_one_that_waits(self, tmp_path, now, capsys):
        oracle = self.oracle(tmp_path)
        lost, other = oracle.create_trial("one"), oracle.create_trial("two")
        now[0] = 6.0
        self.end(oracle, other)
        assert oracle.create_trial("two").status == "IDLE"
        now[0] = 10.0
        assert oracle.create_trial("two").status == "IDLE"
        now[0] = 11.0
        again = oracle.create_trial("two")
        assert (again.trial_id, again.status) == (lost.trial_id, "RUNNING")
        assert "one has sent no heartbeat for 10 s" in capsys.readouterr().out
        self.end(oracle, again)
        assert oracle.create_trial("two").status == "STOPPED"
        assert oracle.is_over()
        assert sorted(oracle.end_order) == sorted([lost.trial_id, other.trial_id])

    def test_a_worker_that_gives_signs_of_life_keeps_its_trial(self, tmp_path, now):
        oracle = self.oracle(tmp_path)
        oracle.create_trial("one")
        self.end(oracle, oracle.create_trial("two"))
        for now[0] in (8.0, 16.0, 24.0):
            assert oracle.create_trial(HEARTBEAT + "one").status == "IDLE"
            assert oracle.create_trial("two").status == "IDLE"
        assert set(oracle.ongoing_trials) == {"one"} and len(oracle.trials) == 2

    def test_a_search_is_over_when_all_that_live_have_heard_it(self, tmp_path, now):
        oracle = self.oracle(tmp_path)
        for name in ("one", "two"):
            self.end(oracle, oracle.create_trial(name))
        assert not oracle.is_over()
        assert oracle.create_trial("one").status == "STOPPED"
        assert not oracle.is_over()
        now[0] = 11.0
        assert oracle.is_over()

    @pytest.mark.parametrize("status", ["COMPLETED", "INVALID"])
    def test_an_end_that_is_told_twice_counts_once(self, status, tmp_path):
        oracle = self.oracle(tmp_path, max_retries_per_trial=3)
        trial = oracle.create_trial("one")
        for _ in range(2):
            self.end(oracle, trial, status)
        is_over = status == "COMPLETED"
        assert oracle.end_order == [trial.trial_id] * is_over
        assert oracle.retry_queue == [trial.trial_id] * (not is_over)

    def test_the_end_of_a_trial_that_waits_for_another_worker_counts(self, tmp_path, now):
        oracle = self.oracle(tmp_path, max_trials=3)
        slow, fails = oracle.create_trial("slow"), oracle.create_trial("fails")
        now[0] = 11.0
        third = oracle.create_trial("two")  # one of the two, given up just now
        waiting = ({slow.trial_id, fails.trial_id} - {third.trial_id}).pop()
        assert oracle.retry_queue == [waiting]
        ended = slow if slow.trial_id == waiting else fails
        self.end(oracle, ended, "INVALID")
        assert oracle.retry_queue == [waiting] and not oracle.end_order
        self.end(oracle, ended)
        assert not oracle.retry_queue and oracle.end_order == [waiting]

    def test_a_chief_that_comes_back_leaves_trials_to_their_workers(
        self, tmp_path, now, monkeypatch
    ):
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
        tuner = self.tuner(tmp_path, max_trials=3)
        tuner.save()
        before = tuner.oracle
        trials = {name: before.create_trial(name) for name in ("one", "two", "three")}
        self.end(before, trials["three"], "COMPLETED")
        again = self.oracle(tmp_path, max_trials=3)
        assert {name: trial.trial_id for name, trial in again.ongoing_trials.items()} == {
            name: trials[name].trial_id for name in ("one", "two")
        }
        assert not again.retry_queue and not again.is_exhausted
        again.find_out_what_is_left()
        assert not again.is_exhausted
        self.end(again, trials["two"])
        assert again.create_trial("one").trial_id == trials["one"].trial_id
        now[0] = 11.0
        assert again.create_trial("two").trial_id == trials["one"].trial_id

    def test_what_a_chief_looks_at_stays_for_its_workers(self, tmp_path):
        oracle = self.oracle(tmp_path)
        self.end(oracle, oracle.create_trial("one"))
        oracle.find_out_what_is_left()
        assert not oracle.is_exhausted and not oracle.ongoing_trials
        left = oracle.create_trial("one")
        assert left.status == "RUNNING" and left.trial_id == "1"
        self.end(oracle, left)
        oracle.find_out_what_is_left()
        assert oracle.is_exhausted
