"""Searches in processes of their own: killed and started again, a chief and its workers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import keras
import pytest
import searching

from keras_freeze.tuning import results, workers

SCRIPT = Path(searching.__file__)
LIMIT_S = 240.0

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of processes, not of backends"
)


def start(folder, name=None, port=None, slow=0.0, **limits):
    part = {"SLOW": str(slow), **{name: str(limit) for name, limit in limits.items()}}
    if name:
        part |= {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": "127.0.0.1"}
        part |= {"KERASTUNER_ORACLE_PORT": str(port)}
    with (folder / f"{name or 'alone'}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**os.environ, **part},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until(holds):
    """Wait until something holds, and return it."""
    end = time.monotonic() + LIMIT_S
    while not (found := holds()):
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.05)
    return found


def begun(folder):
    file = folder / "begun.txt"
    return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []


def finished(folder):
    rows = results.rows(folder / "search") if (folder / "search").exists() else []
    return {row["freeze_depth"]: row for row in rows if row["status"] == "COMPLETED"}


@pytest.mark.slow
def test_a_killed_search_resumes(tmp_path):
    first = start(tmp_path, slow=0.4)
    until(lambda: len(begun(tmp_path)) == 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = finished(tmp_path)
    assert list(before) == [2]
    assert start(tmp_path).wait(LIMIT_S) == 0
    assert Counter(depth for _, depth in begun(tmp_path)) == {"2": 1, "1": 2, "0": 1}
    after = finished(tmp_path)
    assert set(after) == {0, 1, 2}
    assert after[2] == before[2]


@pytest.fixture
def team(tmp_path):
    """Return what starts a process of a search by its name; all of them end with the test."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = []

    def add(name, **options):
        processes.append(start(tmp_path, name, port, **options))
        return processes[-1]

    yield add
    for process in processes:
        process.kill()
        process.wait()


def depth_of(folder, name):
    """Wait until a worker trains, and return the freeze depth."""
    return int(until(lambda: [depth for who, depth in begun(folder) if who == name])[-1])


@pytest.mark.slow
def test_the_trial_of_a_worker_that_died_goes_to_another(tmp_path, team):
    chief = team("chief", worker_timeout_s=3.0)
    left = team("worker_0", slow=0.1, worker_timeout_s=3.0)
    dies = team("worker_1", slow=1.0, worker_timeout_s=3.0)
    lost = depth_of(tmp_path, "worker_1")
    dies.kill()
    assert left.wait(LIMIT_S) == 0
    assert chief.wait(LIMIT_S) == 0
    assert set(finished(tmp_path)) == {0, 1, 2}
    assert begun(tmp_path).count(("worker_0", str(lost))) == 1
    assert Counter(depth for _, depth in begun(tmp_path))[str(lost)] == 2
    assert len(begun(tmp_path)) == 4
    assert "worker_1 has sent no heartbeat for 3 s" in (tmp_path / "chief.log").read_text()


@pytest.mark.slow
def test_workers_whose_trials_have_processes_of_their_own(tmp_path, team):
    """One trial crashes; a worker is killed, with which its trial's process ends."""
    (tmp_path / "crash-1").touch()
    limits = {"ISOLATE": 1, "worker_timeout_s": 5.0}
    chief = team("chief", **limits)
    left, dies = team("worker_0", slow=0.5, **limits), team("worker_1", slow=0.5, **limits)
    lost = depth_of(tmp_path, "worker_1")
    dies.kill()
    assert left.wait(LIMIT_S) == 0
    assert chief.wait(LIMIT_S) == 0
    found = finished(tmp_path)
    assert set(found) == {0, 1, 2}
    assert Counter(depth for _, depth in begun(tmp_path))[str(lost)] == 2
    assert len(begun(tmp_path)) == 4
    ended = "RuntimeError: The process of trial 0001 was ended by SIGABRT."
    assert [row["failures"] for row in found.values() if row["failures"]] == [[ended]]


@pytest.mark.slow
def test_a_long_trial_of_a_worker_that_lives_is_left_to_it(tmp_path, team):
    chief = team("chief", worker_timeout_s=3.0)
    workers = [team(f"worker_{n}", slow=1.0, worker_timeout_s=3.0) for n in range(2)]
    assert [worker.wait(LIMIT_S) for worker in workers] == [0, 0]
    assert chief.wait(LIMIT_S) == 0
    assert Counter(depth for _, depth in begun(tmp_path)) == {"2": 1, "1": 1, "0": 1}


@pytest.mark.slow
def test_a_worker_that_comes_back_gets_its_trial_at_once(tmp_path, team):
    chief = team("chief")
    dies = team("worker_1", slow=1.0)
    lost = depth_of(tmp_path, "worker_1")
    dies.kill()
    assert team("worker_1").wait(LIMIT_S) == 0
    assert chief.wait(LIMIT_S) == 0
    assert begun(tmp_path)[:2] == [("worker_1", str(lost))] * 2
    assert set(finished(tmp_path)) == {0, 1, 2}


@pytest.mark.slow
def test_a_chief_that_died_comes_back_where_it_was(tmp_path, team):
    chief = team("chief")
    workers = [team(f"worker_{n}", slow=0.5) for n in range(2)]
    for n in range(2):
        depth_of(tmp_path, f"worker_{n}")
    chief.kill()
    chief.wait()
    again = team("chief")
    assert [worker.wait(LIMIT_S) for worker in workers] == [0, 0]
    assert again.wait(LIMIT_S) == 0
    assert Counter(depth for _, depth in begun(tmp_path)) == {"2": 1, "1": 1, "0": 1}
    assert set(finished(tmp_path)) == {0, 1, 2}


@pytest.mark.slow
def test_a_chief_whose_search_is_over_ends_when_it_is_started_again(tmp_path, team):
    chief = team("chief")
    assert team("worker_0").wait(LIMIT_S) == 0
    assert chief.wait(LIMIT_S) == 0
    assert team("chief", worker_timeout_s=1.0).wait(LIMIT_S) == 0
    assert set(finished(tmp_path)) == {0, 1, 2}


@pytest.mark.slow
def test_a_worker_waits_for_its_chief_no_longer_than_it_is_told(tmp_path, team):
    chief = team("chief")
    worker = team("worker_0", slow=0.5, chief_timeout_s=4.0)
    depth_of(tmp_path, "worker_0")
    chief.kill()
    assert worker.wait(LIMIT_S) == 1
    said = (tmp_path / "worker_0.log").read_text()
    assert "has not answered worker_0 for 4 s. Start the chief again" in said


class TestTeam:
    """With stand-ins for the search that take no time."""

    def team(self, tmp_path, code, **options):
        command = [sys.executable, "-c", f"import os, sys, time; from pathlib import Path; {code}"]
        return workers.Team(command, 2, tmp_path / "logs", **options)

    @pytest.mark.landing
    def test_a_worker_that_dies_is_restarted(self, tmp_path, capsys):
        code = (
            f"mark = Path({str(tmp_path)!r}) / os.environ['KERASTUNER_TUNER_ID']; "
            "is_first = not mark.exists(); mark.open('a').write('x'); "
            "time.sleep(1.5) if mark.name == 'chief' else sys.exit(3 if is_first else 0)"
        )
        assert self.team(tmp_path, code).run() == 0
        said = capsys.readouterr().out
        assert said.count("died (status 3) and is restarted") == 2
        assert [(tmp_path / f"worker_{n}").read_text() for n in range(2)] == ["xx", "xx"]

    @pytest.mark.landing
    def test_a_chief_that_is_killed_is_restarted(self, tmp_path, capsys):
        code = (
            f"mark = Path({str(tmp_path)!r}) / os.environ['KERASTUNER_TUNER_ID']; "
            "is_first = not mark.exists(); mark.open('a').write('x'); "
            "os.kill(os.getpid(), 9) if mark.name == 'chief' and is_first else 0"
        )
        assert self.team(tmp_path, code).run() == 0
        assert "chief died (status -9) and is restarted" in capsys.readouterr().out
        assert (tmp_path / "chief").read_text() == "xx"

    @pytest.mark.landing
    def test_when_one_is_not_restarted_the_chief_does_not_wait_for_ever(self, tmp_path, capsys):
        code = (
            "name = os.environ['KERASTUNER_TUNER_ID']; "
            "time.sleep(600) if name == 'chief' else sys.exit(name == 'worker_1')"
        )
        assert self.team(tmp_path, code, restarts=1, patience_s=1.0).run() == 1
        assert "The chief waits for a worker that is not restarted" in capsys.readouterr().out

    def test_what_the_chief_says_last_is_shown(self, tmp_path, capsys):
        code = "print(*range(99), sep=chr(10)); sys.exit(2)"
        assert self.team(tmp_path, code, restarts=0).run() == 2
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == "98" and "79" in said and "78" not in said
        assert (tmp_path / "logs" / "chief.log").read_text().count("98") == 1
        self.team(tmp_path, code, restarts=0).run()
        assert (tmp_path / "logs" / "chief.log").read_text().count("98") == 1

    @pytest.mark.landing
    def test_a_chief_that_has_more_to_do_is_left_to_it(self, tmp_path):
        code = "time.sleep(1.5) if os.environ['KERASTUNER_TUNER_ID'] == 'chief' else 0"
        assert self.team(tmp_path, code, patience_s=0.3).run() == 0

    @pytest.mark.parametrize("arguments", [["--workers", "0", "x.py"], [], ["absent.py"]])
    def test_wrong_arguments(self, arguments):
        with pytest.raises(SystemExit):
            workers.main(arguments)
