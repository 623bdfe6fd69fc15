"""What is tried next: nothing twice, and smaller rounds where a space is used up."""

import pytest
from small_searches import Untrained, build_with_depth, project

from keras_freeze import tuning


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
