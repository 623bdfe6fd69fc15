"""What a search has found, as rows, as a frame and as a printed table."""

import importlib.util

import pytest

from keras_freeze.tuning import results

COLUMNS = ("freeze_depth", "trainable_params", "non_trainable_params", "score")


def test_a_frame(swept):
    pandas = pytest.importorskip("pandas")
    frame = swept.results_frame()
    assert isinstance(frame, pandas.DataFrame)
    by_depth = frame.set_index("freeze_depth")
    assert by_depth.loc[2, "trainable_params"] == 18
    assert by_depth.loc[2, "non_trainable_params"] == 65
    assert set(COLUMNS) <= set(frame.columns)


def test_a_list_of_rows_without_pandas(swept, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name)
    )
    rows = swept.results_frame()
    assert rows == swept.rows()
    assert all(set(COLUMNS) <= set(row) for row in rows)


def test_a_summary(swept, capsys):
    swept.results_summary()
    said = capsys.readouterr().out
    best = results.best_first(swept.rows(), "min")[0]
    for part in ("val_loss", "depth", "trainable", "frozen", "seconds", "18", "65"):
        assert part in said
    assert f"{best['score']:.4f} ± {best['score_std']:.4f}" in said
    assert "freeze_depth" not in said  # which is the depth
    assert "epochs" not in said  # which are the same
