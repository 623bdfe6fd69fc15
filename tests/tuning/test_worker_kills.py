"""A chief and two workers, each killed once at a random moment: twenty searches."""

import json
import random
import sys
import threading
import time
from pathlib import Path

import keras
import pytest
import searching

from keras_freeze.tuning import results, trial_record, workers

TRIALS = 6
LIMIT_S = 300.0


class Killer(threading.Thread):
    """Kills each process of a team once, some time after so many trainings have begun."""

    def __init__(self, team, folder, chance):
        super().__init__(daemon=True)
        self.team = team
        self.begun = folder / "begun.txt"
        names = [workers.CHIEF, *team.workers]
        self.due = sorted((chance.randint(1, TRIALS - 1), chance.random(), n) for n in names)
        self.killed = []

    def run(self):
        for count, delay_s, name in self.due:
            while self._trainings() < count:
                time.sleep(0.02)
            time.sleep(delay_s)
            self.team.processes[name].kill()
            self.killed.append(name)

    def _trainings(self):
        return len(self.begun.read_text().splitlines()) if self.begun.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of processes, not of backends")
@pytest.mark.parametrize("seed", range(20))
def test_every_trial_is_there_exactly_once(seed, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIALS", str(TRIALS))
    monkeypatch.setenv("SLOW", "0.1")
    monkeypatch.setenv("worker_timeout_s", "5")
    command = [sys.executable, searching.__file__, str(tmp_path)]
    team = workers.Team(command, 2, tmp_path / "logs")
    killer = Killer(team, tmp_path, random.Random(seed))
    status = []
    runs = threading.Thread(target=lambda: status.append(team.run()), daemon=True)
    runs.start()
    while not team.processes:
        time.sleep(0.02)
    killer.start()
    runs.join(LIMIT_S)
    said = {log.stem: log.read_text()[-2000:] for log in (tmp_path / "logs").iterdir()}
    assert status == [0], said
    assert sorted(killer.killed) == ["chief", "worker_0", "worker_1"]
    rows = results.rows(tmp_path / "search")
    assert [row["status"] for row in rows] == ["COMPLETED"] * TRIALS, said
    assert len({str(row["values"]) for row in rows}) == TRIALS
    records = list(trial_record.read_all(tmp_path / "search"))
    assert [record.trial_id for record in records] == [str(n) for n in range(TRIALS)]
    state = json.loads(Path(tmp_path / "search" / "oracle.json").read_text())
    assert sorted(state["end_order"]) == [str(n) for n in range(TRIALS)]
    for record in records:
        trial = tmp_path / "search" / f"trial_{record.trial_id}" / "trial.json"
        assert json.loads(trial.read_text())["score"] == pytest.approx(record.score)
