"""Pictures of searches, from folders as searches leave them."""

import json

import numpy as np
import pytest

from keras_freeze import plots
from keras_freeze.tuning import results, search_folder, trial_record
from keras_freeze.tuning.trial_record import Execution, TrainedPart, TrialRecord


@pytest.fixture
def searched(tmp_path):
    """Return a function that writes the folder of a search with so many trials."""

    def write(count, rates=(), status="COMPLETED"):
        rng = np.random.default_rng(0)
        about = {"objective": "val_accuracy", "direction": "max"}
        (tmp_path / search_folder.FILE).write_text(json.dumps(about))
        for n in range(count):
            depth = n % 6
            curve = sorted(rng.uniform(0.2, 0.5 + 0.05 * depth, 5))
            parts = [
                TrainedPart(0, ("low",) * depth, 100, 900, 400, 3600),
                TrainedPart(3, (), 1000 - 100 * depth, 100 * depth, 4000, 400),
            ]
            execution = Execution(0, parts, {"val_accuracy": curve}, [1.0 + depth] * 5, [True] * 5)
            execution.best_epoch, execution.score = 4, curve[-1]
            values = {"freeze_depth": depth}
            if rates:
                values |= {"dropout_rate": 0.1 * (n % 3), "learning_rate": rates[n % len(rates)]}
            trial = f"{n:03d}"
            folder = tmp_path / f"trial_{trial}"
            folder.mkdir()
            (folder / "trial.json").write_text(json.dumps({"status": status}))
            TrialRecord(trial, values, depth, [execution]).save(folder)
        return tmp_path

    return write


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def stars(figure):
    lines = [line for axes in figure.axes for line in axes.lines if line.get_gid() == "best"]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def test_of_hyperband_nothing_is_averaged_and_time_is_counted_on(searched):
    folder = searched(3)
    for n, (epochs, before) in enumerate([(2, {}), (5, {"tuner/trial_id": "000"}), (2, {})]):
        record = trial_record.read(folder / f"trial_{n:03d}")
        record.values |= {"tuner/epochs": epochs, **before}
        record.save(folder / f"trial_{n:03d}")
    figure = plots.search(folder)
    depth, _, seconds, *_ = figure.axes
    assert depth.get_title() == "score by depth, each training"
    assert not depth.containers
    (points,) = (line for line in seconds.lines if len(line.get_xdata()) == 3)
    assert sorted(points.get_xdata()) == [5.0, 5.0 + 10.0, 15.0]


@pytest.mark.parametrize("count", [3, 200])
def test_every_trial_is_drawn_and_the_best_marked(searched, count):
    folder = searched(count)
    figure = plots.search(folder)
    rows = results.rows(folder)
    best = results.best_first(rows, "max")[0]
    assert stars(figure) == [
        (best["freeze_depth"], best["score"]),
        (best["trainable_params"], best["score"]),
        (best["seconds"], best["score"]),
    ]
    by_depth, by_parameters, by_time, curves = figure.axes[:4]
    for axes in (by_depth, by_parameters, by_time):
        assert max(len(line.get_xdata()) for line in axes.lines) == count
    lines = [line for line in curves.lines if line.get_gid() != "transition"]
    assert len(lines) == count
    marks = [line.get_xdata()[0] for line in curves.lines if line.get_gid() == "transition"]
    assert marks == [3]  # of the best trial


def test_the_front_holds_what_no_other_beats(searched):
    folder = searched(30)
    axes = plots.search(folder).axes[1]
    (front,) = (line for line in axes.lines if line.get_label() == "Pareto front")
    points = list(zip(front.get_xdata(), front.get_ydata(), strict=True))
    rows = [(row["trainable_params"], row["score"]) for row in results.rows(folder)]
    for cost, score in points:
        assert not [r for r in rows if r[0] <= cost and r[1] > score]
        assert not [r for r in rows if r[0] < cost and r[1] >= score]
    assert points == sorted(points)


def test_means_and_counts_of_each_depth(searched):
    folder = searched(12)
    figure = plots.search(folder)
    rows = results.rows(folder)
    behind = next(axes for axes in figure.axes if "bars" in axes.get_ylabel())
    assert [bar.get_height() for bar in behind.patches] == [1000 - 100 * d for d in range(6)]
    (means,) = (c.lines[0] for c in figure.axes[0].containers)
    expected = [np.mean([r["score"] for r in rows if r["freeze_depth"] == d]) for d in range(6)]
    np.testing.assert_allclose(np.asarray(means.get_ydata(), "float64"), expected)


def test_a_map_where_a_learning_rate_was_searched(searched):
    folder = searched(24, rates=(1e-2, 1e-3, 1e-4))
    assert "depth against learning rate" in titles(plots.search(folder))
    assert "depth against dropout rate" in titles(plots.search(folder, rate="dropout_rate"))
    axes = next(a for a in plots.search(folder).axes if "against" in a.get_title())
    assert axes.get_yscale() == "log"
    with pytest.raises(ValueError, match=r"plots.search\(rate=...\) must be a hyperparameter of"):
        plots.search(folder, rate="momentum")


def test_without_a_rate_there_is_no_map(searched):
    assert len(titles(plots.search(searched(6)))) == 4


def test_nothing_to_draw(searched, tmp_path):
    with pytest.raises(ValueError, match=r"must hold what a tuner of keras_freeze\.tuning"):
        plots.search(tmp_path)
    with pytest.raises(ValueError, match="at least one complete trial whose callbacks were"):
        plots.search(searched(3, status="FAILED"))


def test_with_a_map_the_figure_is_as_wide_as_a_notebook(searched):
    figure = plots.search(searched(12, rates=(1e-2, 1e-3)))
    assert figure.get_figwidth() <= 9
    figure.canvas.draw()
    places = {axes.get_title(): axes.get_position() for axes in figure.axes if axes.get_title()}
    assert len(places) == 5
    assert min(place.width for place in places.values()) > 0.3
