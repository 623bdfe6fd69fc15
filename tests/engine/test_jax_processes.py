"""Two JAX processes that train one model together, with their arrays spread over both."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_freeze as kf

PROGRAM = Path(__file__).parents[1] / "jax_processes.py"
LIMIT_S = 300.0

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution"),
]


def start(folder, kind, task):
    """Start both processes of a task."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    package = Path(kf.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = []
    for rank in range(2):
        with (folder / f"{task}-{rank}.log").open("w") as log:
            command = [sys.executable, PROGRAM, str(rank), str(port), kind, task, folder]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def run(folder, kind, task):
    """Return what both processes of a task have written: the same."""
    for rank, process in enumerate(start(folder, kind, task)):
        said = folder / f"{task}-{rank}.log"
        assert process.wait(LIMIT_S) == 0, said.read_text()[-3000:]
    found, other = (dict(np.load(folder / f"{task}-{rank}.npz")) for rank in range(2))
    assert_same(found, other)
    return found


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], name)


def said(folder, task, rank):
    """Return the lines of this package that a process has printed."""
    lines = (folder / f"{task}-{rank}.log").read_text().splitlines()
    return [line for line in lines if line.startswith(("Epoch", "After", "Backbone", "Backup"))]


@pytest.fixture(params=["DataParallel", "ModelParallel"])
def kind(request):
    return request.param


def test_a_schedule_equals_its_phases_by_hand(kind, tmp_path):
    by_hand = run(tmp_path, kind, "by_hand")
    found = run(tmp_path, kind, "by_schedule")
    weights = {name: value for name, value in found.items() if name.startswith("weight")}
    assert_same(weights, by_hand)
    assert len(set(found["log/trainable_params"])) == 3
    assert sum(line.startswith("Epoch") for line in said(tmp_path, "by_schedule", 0)) == 3
    assert not said(tmp_path, "by_schedule", 1)


def test_all_are_killed_when_one_is_and_resume_exactly(kind, tmp_path):
    whole = run(tmp_path, kind, "whole")
    processes = start(tmp_path, kind, "resumable")
    end = time.monotonic() + LIMIT_S
    while not (tmp_path / "begun-1").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    processes[1].kill()
    assert processes[0].wait(LIMIT_S) != 0  # JAX ends the others
    processes[1].wait()
    assert (tmp_path / "backup").is_dir()
    assert_same(run(tmp_path, kind, "resumable"), whole)
    assert said(tmp_path, "resumable", 0)[0].startswith("BackupAndRestore: resuming with epoch 4")
    assert not said(tmp_path, "resumable", 1)
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("task", ["settling", "race"])
def test_processes_decide_alike_and_one_speaks(task, kind, tmp_path):
    found = run(tmp_path, kind, task)
    assert np.isfinite(found["log/loss"]).all()
    assert said(tmp_path, task, 0) and not said(tmp_path, task, 1)


def test_folders_of_backups_that_differ_are_refused(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    from keras_freeze.backup import backup_and_restore

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_and_restore, "is_alike", lambda number: False)
        with pytest.raises(ValueError, match="one folder for all processes"):
            model.fit(np.ones((4, 3)), np.ones(4), callbacks=[kf.BackupAndRestore(tmp_path)])
