"""Attempts at a trial: which failures are final, and how an attempt is scored."""

from pathlib import Path

import keras_tuner
import pytest
from small_searches import Untrained, X, Y, build, project, random_search

from keras_freeze import tuning
from keras_freeze.tuning import trial_record


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("OOM when allocating tensor"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("Unable to allocate 3.00 TiB for an array"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of range"),
        RuntimeError("ResourceExhaustedError: failed"),
        RuntimeError("OOM when allocating tensor with shape[3]"),
    ],
)
def test_out_of_memory_is_not_tried_again(error, tmp_path):
    class Large(Untrained):
        def fit(self, hp, model, *args, **kwargs):
            raise error

    tuner = random_search(Large(build), tmp_path)
    with pytest.raises(RuntimeError, match="none is complete"):
        tuner.search(X, Y)
    (row,) = tuner.rows()
    assert (row["status"], len(row["failures"]), row["score"]) == ("FAILED", 1, None)


def test_an_objective_that_is_not_logged(tmp_path):
    sweep = tuning.DepthSweep(build, **project(tmp_path))
    message = r"must be among the metrics of fit\. Received: 'val_loss', but.*are accuracy, loss"
    with pytest.raises(keras_tuner.errors.FatalValueError, match=message + ".*validation_data"):
        sweep.search(X, Y, epochs=1, verbose=0)
    (record,) = trial_record.read_all(Path(sweep.project_dir))
    assert "must be among the metrics" in record.failures[0]
    assert not record.is_running


def test_a_trial_in_which_the_process_is_killed_again_and_again(tmp_path):
    tuner = random_search(Untrained(build), tmp_path)
    tuner.search(verbose=0)
    folder = Path(tuner.project_dir) / "trial_0"
    record = trial_record.read(folder)
    record.is_running, record.killed = True, 2
    record.save(folder)
    trial = tuner.oracle.trials["0"]
    trial.status = "RUNNING"
    tuner.oracle._save_trial(trial)
    again = random_search(Untrained(build), tmp_path)
    with pytest.raises(RuntimeError, match=r"none is complete.*killed 3 times in this trial"):
        again.search(verbose=0)
    (row,) = tuner.rows()
    assert row["status"] == "FAILED"
    assert "killed 3 times in this trial" in row["failures"][-1]
