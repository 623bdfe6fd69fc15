"""A run that is killed and started again ends as one that was not, to the last bit."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import resumable

SCRIPT = Path(resumable.__file__)
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="bits are promised on TensorFlow's CPU"
)


def start(case, folder, *kill):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), case, str(folder), *map(str, kill)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_to_its_end(case, folder, *kill):
    """Run a process, and return whether it was killed; fail if it failed otherwise."""
    process = start(case, folder, *kill)
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), out + err
    return process.returncode != 0


def kill_after(case, folder, seconds):
    """Kill a process so many seconds after it has begun to train."""
    process = start(case, folder)
    while (line := process.stdout.readline()) and line.strip() != "ready":
        pass
    time.sleep(seconds)
    process.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode != 0


def contents(folder):
    with np.load(folder / "result.npz") as file:
        return {name: (file[name].shape, file[name].tobytes()) for name in file.files}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Return a function from case to the folder of a run that nothing interrupted."""
    done = {}

    def folder_of(case):
        if case not in done:
            done[case] = tmp_path_factory.mktemp(f"whole_{case}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as in the processes
                resumable.run(case, done[case])
        return done[case]

    return folder_of


def assert_same(folder, whole):
    assert contents(folder) == contents(whole)
    said = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole / "logs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in expected] == list(range(resumable.EPOCHS))[: len(expected)]
    # An epoch that was cut off after it had been logged is logged again, with the same values.
    assert {json.dumps(line) for line in said} == {json.dumps(line) for line in expected}
    assert not (folder / "backup").exists()


# One kill of each kind, each in another case, and one before a change lands.
HANDFUL = [
    pytest.param("mixed", "transition", 3, marks=pytest.mark.landing),
    pytest.param("race", "begin", 5, marks=pytest.mark.slow),
    pytest.param("sequence", "write", 60, marks=pytest.mark.slow),
    pytest.param("settling", "batch", 27, marks=pytest.mark.slow),
    pytest.param("outputs", "epoch", 4, marks=pytest.mark.slow),
    pytest.param("top gradient", "transition", 2, marks=pytest.mark.slow),
    pytest.param("auto rates", "batch", 27, marks=pytest.mark.slow),
    pytest.param("progressive", "batch", 27, marks=pytest.mark.slow),
    pytest.param("even", "write", 20, marks=pytest.mark.slow),
    pytest.param("best", "rename", 3, marks=pytest.mark.slow),
    pytest.param("scaled", "batch", 16, marks=pytest.mark.slow),
    pytest.param("accumulated", "epoch", 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("case", "event", "number"), HANDFUL)
def test_a_killed_run_ends_like_one_that_was_not(case, event, number, tmp_path, uninterrupted):
    assert run_to_its_end(case, tmp_path, event, number)
    assert not run_to_its_end(case, tmp_path)
    assert_same(tmp_path, uninterrupted(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", resumable.CASES)
def test_a_run_killed_again_and_again_ends_like_one_that_was_not(case, tmp_path, uninterrupted):
    """At least ten kills a case, at random moments and in the middle of all that can be cut."""
    rng, kills = random.Random(case), 0
    while kills < 10:
        if (tmp_path / "result.npz").exists():  # it came to its end; begin another
            assert_same(tmp_path, uninterrupted(case))
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
        if rng.random() < 0.4:
            kills += kill_after(case, tmp_path, rng.uniform(0.0, 2.5))
        else:
            event = rng.choice(resumable.EVENTS)
            kills += run_to_its_end(case, tmp_path, event, rng.randint(1, 12))
    if not (tmp_path / "result.npz").exists():
        assert not run_to_its_end(case, tmp_path)
    assert_same(tmp_path, uninterrupted(case))
