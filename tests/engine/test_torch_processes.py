"""The guide's loop for several processes of torch: it trains as one process does."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "several-devices.md"

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch.distributed"),
]


def script():
    (found,) = re.findall(
        r"## torch.*?```python\n(# train\.py\n.*?)```", GUIDE.read_text(), re.DOTALL
    )
    return found


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train_in(folder, count, code):
    folder.mkdir()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in processes:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    found: dict[str, np.ndarray] = {}
    with h5py.File(folder / "trained.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None
        )
    return found


def test_two_processes_train_as_one_does(tmp_path):
    alone, together = (train_in(tmp_path / str(n), n, script()) for n in (1, 2))
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        np.testing.assert_allclose(together[name], weight, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_unfreezes_later_makes_a_difference(tmp_path):
    frozen = script().replace("(2, 1, 0)", "(2, 2, 2)")
    alone, other = train_in(tmp_path / "1", 1, script()), train_in(tmp_path / "2", 1, frozen)
    weights = [name for name in alone if name.startswith("layers")]
    moved = [name for name in weights if not np.allclose(alone[name], other[name])]
    assert len(moved) > 2  # not the head alone
