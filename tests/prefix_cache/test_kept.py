"""Features that are kept in a folder, for further fits and for other processes."""

import collections
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import cached
import keras
import lmdb
import numpy as np
import psutil
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.features import kept_database, kept_library
from keras_freeze.features.kept_database import FOLDER, encoded, using
from keras_freeze.features.kept_library import KeptLibrary
from keras_freeze.prefix_cache.compiled_prefix import Prefix
from keras_freeze.reports import readable_bytes

pytestmark = pytest.mark.backend
ROWS, SIZE = 20, 8


def network(heads=3, width=4):
    """A frozen convolution and a new head."""
    inputs = keras.Input((SIZE, SIZE, 2))
    x = layers.Conv2D(width, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(heads, activation="softmax", name="head")(x))


def kept(folder, **options):
    return kf.PrefixCache(directory=folder, keep=True, **{"auto": False, "verbose": 0, **options})


def fit(folder, build=None, data=None, **settings):
    """Fit with kept features; return what the fit left behind and how many it computed."""
    settings = {"epochs": 3, **settings}
    cache = kept(folder, **settings.pop("cache", {}))
    build = build or cached.frozen(network, layers=["conv"])
    outcome = cached.fit(build, data or cached.images(ROWS), cache, **settings)
    return outcome, cache.statistics


def assert_close(outcome, plain):
    for got, wanted in zip(outcome.weights, plain.weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def plain_fit(build=None, data=None, **settings):
    build = build or cached.frozen(network, layers=["conv"])
    return cached.fit(build, data or cached.images(ROWS), epochs=3, **settings)


def samples(folder):
    return sorted(shelf.samples for shelf in kf.PrefixCache.contents(folder).shelves)


class TestFurtherFits:
    def test_a_second_fit_computes_nothing(self, tmp_path):
        plain = plain_fit(validate=True)
        for computed in (2 * ROWS, 0):  # in training and in validation
            outcome, statistics = fit(tmp_path, validate=True)
            assert statistics.misses == computed
            assert_close(outcome, plain)
        assert samples(tmp_path) == [ROWS, ROWS]

    @pytest.mark.slow_on_jax
    def test_the_last_line_says_what_the_folder_holds(self, tmp_path, capsys):
        fit(tmp_path, cache={"verbose": 1})
        size = sum(shelf.nbytes for shelf in kf.PrefixCache.contents(tmp_path).shelves)
        last = capsys.readouterr().out.splitlines()[-1]
        assert f"looked up; {readable_bytes(size)} in {tmp_path}" in last

    @cached.on_tensorflow
    def test_nothing_is_traced_where_all_is_found(self, tmp_path, monkeypatch):
        fit(tmp_path)
        monkeypatch.delattr(Prefix, "_traced")
        assert fit(tmp_path)[1].misses == 0

    @pytest.mark.slow_on_jax
    def test_another_head_and_batch_size_find_them(self, tmp_path):
        fit(tmp_path)
        other = cached.frozen(lambda: network(heads=5), layers=["conv"])
        outcome, statistics = fit(tmp_path, other, batch_size=5)
        assert statistics.misses == 0
        assert_close(outcome, plain_fit(other, batch_size=5))

    @pytest.mark.at_commit("weights")
    @pytest.mark.slow_on_jax
    @pytest.mark.parametrize("what", ["weights", "structure", "data"])
    def test_another_computation_does_not(self, what, tmp_path):
        fit(tmp_path)

        def scaled():
            model = network()
            kernel = model.get_layer("conv").kernel
            kernel.assign(kernel * 1.01)
            return model

        other = {"weights": scaled, "structure": lambda: network(width=5), "data": network}[what]
        x, y = cached.images(ROWS)
        data = (x * 0.5, y) if what == "data" else (x, y)
        build = cached.frozen(other, layers=["conv"])
        outcome, statistics = fit(tmp_path, build, data)
        assert statistics.misses == ROWS
        assert_close(outcome, plain_fit(build, data))

    @pytest.mark.slow_on_jax
    @pytest.mark.slow
    def test_another_version_of_keras_does_not(self, tmp_path, monkeypatch):
        fit(tmp_path)
        monkeypatch.setitem(sys.modules, "keras_hub", types.ModuleType("keras_hub"))
        assert fit(tmp_path)[1].misses == 0  # which has no part in it
        monkeypatch.setattr(keras, "__version__", "99.0")
        assert fit(tmp_path)[1].misses == ROWS

    @pytest.mark.slow_on_jax
    def test_new_samples_alone_are_computed(self, tmp_path):
        x, y = cached.images(ROWS)
        fit(tmp_path, data=(x[:10], y[:10]))
        _, statistics = fit(tmp_path, data=(x, y), shuffle=False, epochs=1)
        assert statistics.misses == 10

    @pytest.mark.slow
    def test_a_deeper_cut_starts_from_them(self, tmp_path):
        def deep():
            inputs = keras.Input((SIZE, SIZE, 2))
            x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
            x = layers.Conv2D(4, 3, activation="relu", name="second")(x)
            x = layers.GlobalAveragePooling2D(name="pool")(x)
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        fit(tmp_path, cached.frozen(deep, layers=["conv"]))
        build = cached.frozen(deep, layers=["conv", "second"])
        outcome, _ = fit(tmp_path, build)
        assert_close(outcome, plain_fit(build))
        assert samples(tmp_path) == [ROWS, ROWS]

    @pytest.mark.at_commit("512-256")
    @pytest.mark.slow_on_jax
    @pytest.mark.parametrize(("rows", "batch"), [(512, 128), (512, 256), (1000, 200)])
    def test_as_many_as_there_are(self, rows, batch, tmp_path):
        """LMDB takes pages for claims that it never writes; a file without them is whole."""
        rng = np.random.default_rng(0)
        data = rng.normal(size=(rows, 9)).astype("float32"), rng.integers(0, 3, rows)

        def build():
            inputs = keras.Input((9,))
            x = layers.Dense(6, name="low")(inputs)
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        build = cached.frozen(build, layers=["low"])
        settings = {"epochs": 2, "batch_size": batch}
        assert fit(tmp_path, build, data, **settings)[1].misses == rows
        assert samples(tmp_path) == [rows]
        assert fit(tmp_path, build, data, **settings)[1].misses == 0

    @pytest.mark.skipif(keras.backend.backend() != "torch", reason="`.data` is torch's")
    def test_what_other_weights_have_computed_is_withdrawn(self, tmp_path):
        """Torch doesn't count such writes; they are found at the end of the fit."""

        def scale(model):
            model.get_layer("conv").kernel.value.data.mul_(1.5)

        build = cached.frozen(network, layers=["conv"])
        data, writing = cached.images(ROWS), cached.At(scale, epoch=0, batch=1)
        cached.fit(build, data, writing, kept(tmp_path), epochs=1)
        outcome, _ = fit(tmp_path, build, data)
        assert_close(outcome, plain_fit(build, data))

    @pytest.mark.slow_on_jax
    @pytest.mark.parametrize("random", [layers.RandomFlip, lambda: layers.RandomCrop(SIZE, SIZE)])
    def test_views_are_kept(self, random, tmp_path):
        def build():
            inputs = keras.Input((SIZE, SIZE, 2))
            x = random()(inputs)
            x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
            x = layers.GlobalAveragePooling2D()(x)
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        build = cached.frozen(build, layers=["conv"])
        views = {"views": 2}
        assert fit(tmp_path, build, cache=views, epochs=4)[1].misses == 2 * ROWS
        assert samples(tmp_path) == [2 * ROWS]
        assert fit(tmp_path, build, cache=views, epochs=4)[1].misses == 0


@pytest.mark.slow_on_jax
class TestRoom:
    @pytest.mark.slow
    def test_what_was_used_longest_ago_makes_room(self, tmp_path):
        wide = [cached.frozen(lambda w=w: network(width=w), layers=["conv"]) for w in (4, 5, 6)]
        fit(tmp_path, wide[0])
        size = kf.PrefixCache.contents(tmp_path).shelves[0].nbytes
        for build in (*wide[1:], wide[1]):  # the first is used longest ago, then the last
            fit(tmp_path, build, cache={"max_bytes": int(2.5 * size)})
        assert fit(tmp_path, wide[1])[1].misses == 0
        assert fit(tmp_path, wide[0], cache={"max_bytes": int(2.5 * size)})[1].misses == ROWS
        assert fit(tmp_path, wide[2], epochs=1)[1].misses == ROWS

    def test_what_has_no_room_is_kept_for_the_fit(self, tmp_path):
        outcome, statistics = fit(tmp_path, cache={"max_bytes": 1500})
        assert statistics.misses == ROWS
        assert sum(samples(tmp_path)) < ROWS
        assert_close(outcome, plain_fit())

    @pytest.mark.slow
    def test_the_file_is_as_large_as_it_may_be(self, tmp_path):
        rows = 400
        rng = np.random.default_rng(0)
        data = rng.normal(size=(rows, 5)).astype("float32"), rng.integers(0, 3, rows)

        def build():
            inputs = keras.Input((5,))
            x = layers.Dense(340, name="low")(inputs)  # of which three fill a page
            return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

        limit = 600_000
        _, statistics = fit(
            tmp_path, cached.frozen(build, layers=["low"]), data, cache={"max_bytes": limit}
        )
        assert statistics.misses == rows
        assert 0.5 * limit < (tmp_path / FOLDER / "data.mdb").stat().st_size < 1.2 * limit

    def test_what_is_held_is_not_taken_from_the_default_limit(self, tmp_path, monkeypatch):
        free = 2**30

        def disk_usage(directory):
            held = kept_database.opened(directory)
            try:
                return types.SimpleNamespace(free=free - held.file_bytes)
            finally:
                kept_database.released(held)

        monkeypatch.setattr(kept_library.shutil, "disk_usage", disk_usage)
        limits, make = [], kept_library._Room.__init__

        def noted(room, database, max_bytes, directory):
            limits.append(max_bytes)
            make(room, database, max_bytes, directory)

        monkeypatch.setattr(kept_library._Room, "__init__", noted)
        for _ in range(2):
            fit(tmp_path)
        assert limits == [free // 4] * 2

    def test_what_can_not_have_room_removes_nothing(self, tmp_path):
        fit(tmp_path)
        wide = cached.frozen(lambda: network(width=2000), layers=["conv"])
        outcome, _ = fit(tmp_path, wide, cache={"max_bytes": 20_000})
        assert_close(outcome, plain_fit(wide))
        assert samples(tmp_path) == [ROWS]

    def test_a_folder_of_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        fit("~/features", cache={"max_bytes": 1500})
        assert sum(samples("~/features")) > 0
        assert (tmp_path / "features" / FOLDER).exists()

    def test_a_folder_that_is_not_there(self, tmp_path):
        assert kf.PrefixCache.contents(tmp_path / "typo").shelves == ()
        kf.PrefixCache.clear(tmp_path / "typo")
        assert not (tmp_path / "typo").exists()

    def test_a_folder_that_another_process_uses_is_emptied(self, tmp_path):
        fit(tmp_path)
        boot = kept_database._boot()
        (tmp_path / FOLDER / f"unsynced-{boot}-{os.getppid()}").touch()
        kf.PrefixCache.clear(tmp_path)
        assert (tmp_path / FOLDER / "data.mdb").exists()
        assert samples(tmp_path) == []

    def test_a_folder_as_a_table(self, tmp_path):
        fit(tmp_path)
        (shelf,) = kf.PrefixCache.contents(tmp_path).shelves
        assert (shelf.kind, shelf.samples) == ("train", ROWS)
        assert shelf.layer.startswith("pool of ")
        assert f"{keras.backend.backend()} " in shelf.made_by
        assert (tmp_path / FOLDER / "data.mdb").stat().st_size >= shelf.nbytes
        shown = str(kf.PrefixCache.contents(tmp_path))
        assert f"features in {tmp_path}" in shown
        assert max(map(len, shown.splitlines()[2:])) <= 80

    def test_a_folder_is_cleared(self, tmp_path):
        fit(tmp_path)
        (tmp_path / "mine.txt").touch()
        kf.PrefixCache.clear(tmp_path)
        assert os.listdir(tmp_path) == ["mine.txt"]
        assert fit(tmp_path)[1].misses == ROWS

    @pytest.mark.slow
    def test_a_folder_is_cleared_while_a_fit_uses_it(self, tmp_path):
        clearing = cached.At(lambda model: kf.PrefixCache.clear(tmp_path), epoch=1)
        outcome = cached.fit(
            cached.frozen(network, layers=["conv"]),
            cached.images(ROWS),
            clearing,
            kept(tmp_path),
            epochs=3,
        )
        assert_close(outcome, plain_fit())
        assert sum(samples(tmp_path)) in (0, ROWS)  # it may be taken for data that don't repeat

    @pytest.mark.slow
    def test_samples_that_are_not_repeated_are_withdrawn(self, tmp_path):
        """And nothing else, such as those of another training."""
        build = cached.frozen(network, layers=["conv"])
        fit(tmp_path, build)

        class Augmented(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                x, y = cached.images(ROWS)
                return x + np.random.normal(size=x.shape), y

        fit(tmp_path, build, Augmented())
        assert samples(tmp_path) == [ROWS]
        assert fit(tmp_path, build)[1].misses == 0


@pytest.mark.slow_on_jax
class TestRefusals:
    def test_arguments(self, tmp_path):
        with pytest.raises(ValueError, match=r"directory=.*must be given with keep=True"):
            kf.PrefixCache(keep=True)
        with pytest.raises(TypeError, match=r"keep=.*must be a bool"):
            kf.PrefixCache(directory=tmp_path, keep="yes")

    def test_a_network_file_system(self, tmp_path, monkeypatch):
        Part = collections.namedtuple("Part", "mountpoint fstype")
        parts = [Part("/", "ext4"), Part(str(tmp_path.resolve()), "nfs4")]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
        with pytest.raises(ValueError, match=r"disk of this host with keep=True.*on nfs4"):
            fit(tmp_path / "features")
        assert fit(tmp_path.parent)[1].misses == ROWS

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"PrefixCache\(directory=.*folder that can be read"):
            fit(tmp_path / "file")


@pytest.mark.slow_on_jax
class TestDamage:
    def rows(self, folder):
        """Return the keys and values of all rows."""
        with using(folder) as database, database.reading() as txn:
            return {bytes(key): bytes(value) for key, value in txn.cursor(db=database._rows)}

    def test_a_spoilt_row_is_computed_anew(self, tmp_path):
        fit(tmp_path)
        before = self.rows(tmp_path)
        with using(tmp_path) as database, database.writing() as txn:
            for n, (key, value) in enumerate(before.items()):
                if n < 3:
                    spoilt = (value[:-1] + bytes([value[-1] ^ 1]), value[:9], b"")[n]
                    txn.put(key, spoilt, db=database._rows)
        outcome, statistics = fit(tmp_path)
        assert 3 <= statistics.misses <= 3 + 8  # and the first batch
        assert_close(outcome, plain_fit())
        after = self.rows(tmp_path)
        assert after.keys() == before.keys()
        assert samples(tmp_path) == [ROWS]

    def test_features_that_fail_an_audit_are_not_written_back(self, tmp_path, monkeypatch):
        settings = {"cache": {"mode": "inference"}}
        fit(tmp_path, **settings)
        get = kept_library.KeptStore.get

        def other(self, keys):
            rows = get(self, keys)
            return rows and [1.5 * row for row in rows]

        monkeypatch.setattr(kept_library.KeptStore, "get", other)
        with pytest.warns(UserWarning, match="differs from an earlier one"):
            outcome, _ = fit(tmp_path, **settings)
        assert_close(outcome, plain_fit())
        assert samples(tmp_path) == []

    @pytest.mark.at_commit("cut short")
    @pytest.mark.parametrize("how", ["cut short", "another file", "a crash of the system"])
    def test_a_torn_database_is_begun_anew(self, how, tmp_path):
        fit(tmp_path)
        data = tmp_path / FOLDER / "data.mdb"
        if how == "cut short":
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2 // 4096 * 4096])
        elif how == "another file":
            data.write_bytes(b"something else " * 10_000)
        else:
            (data.parent / "unsynced-anotherstart-1").touch()
        outcome, statistics = fit(tmp_path)
        assert statistics.misses == ROWS
        assert_close(outcome, plain_fit())
        assert not list(data.parent.glob("unsynced-*"))

    def test_what_can_not_be_written_is_not_cached(self, tmp_path, monkeypatch):
        monkeypatch.setattr(kept_database, "MAP_BYTES", 2**17)  # LMDB then has no space
        build = cached.frozen(lambda: network(width=2000), layers=["conv"])
        with pytest.warns(UserWarning, match="features can't be written: .*MAP_FULL"):
            outcome, _ = fit(tmp_path, build)
        assert_close(outcome, plain_fit(build))


@pytest.mark.slow_on_jax
class TestDatabase:
    @pytest.fixture
    def database(self, tmp_path):
        with using(tmp_path) as database:
            yield database

    def test_a_claim_ends_with_its_process_or_after_a_time(self, database, monkeypatch):
        key = b"shelf of a model" + b"key of a sample "
        with database.writing() as txn:
            assert database.claim(txn, key, 1)
            assert database.claim(txn, key, 1)
            assert not database.claim(txn, key, 2)
            database.release(txn, key)
            assert database.claim(txn, key, 2)
        monkeypatch.setattr(kept_database, "CLAIM_S", 0.0)
        with database.writing() as txn:
            assert database.claim(txn, key, 1)
        monkeypatch.undo()
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        claim = kept_database._CLAIM.pack(ended.pid, 1.0, 1, time.time())
        with database.writing() as txn:
            txn.put(key, claim, db=database._claims)
            assert database.claim(txn, key, 1)

    def test_rows_of_any_dtype_come_back(self, database):
        import ml_dtypes

        arrays = [
            np.arange(6, dtype="float16").reshape(2, 3),
            np.array(True),
            np.zeros((0, 3), "int8"),
            np.ones(2, ml_dtypes.bfloat16),
            np.array([-0.0, np.nan, np.inf]),
        ]
        with database.writing() as txn:
            assert database.put(txn, b"key", encoded(arrays))
            assert not database.put(txn, b"key", encoded(arrays))
        with database.reading() as txn:
            for got, wanted in zip(database.row(txn, b"key"), arrays, strict=True):
                assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
                assert got.tobytes() == wanted.tobytes()

    def test_a_fork_is_told_what_to_do(self, database, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(OSError, match=r"forked from one that uses the folder.*spawn"):
            kept_database.opened(tmp_path)

    def test_one_process_at_a_time_looks_whether_it_is_whole(self, tmp_path):
        entered = threading.Event()

        def enter():
            with kept_database._one_process(tmp_path):
                entered.set()

        other = threading.Thread(target=enter)
        with kept_database._one_process(tmp_path):
            other.start()
            assert not entered.wait(0.2)
        other.join()
        assert entered.is_set()

    def test_one_that_is_open_is_used_again(self, database, tmp_path):
        library = KeptLibrary(str(tmp_path) + "/../" + tmp_path.name)
        with pytest.raises(lmdb.Error):  # which is why
            lmdb.open(str(tmp_path / FOLDER))
        library.clear()
        with database.reading() as txn:
            assert database.shelves(txn) == {}


SCRIPT = """
import json, sys, time
sys.path[:0] = {paths!r}
import keras, numpy as np, cached
import keras_freeze as kf
from test_kept import network, ROWS

folder, seed, pause, epochs = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])

class Reshuffled(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()
    def __len__(self):
        return 8
    def on_epoch_end(self):
        self.order = self.rng.permutation(64)
    def __getitem__(self, index):
        time.sleep(pause)
        rows = self.order[8 * index : 8 * index + 8]
        x, y = cached.images(64)
        return x[rows], y[rows]

cache = kf.PrefixCache(directory=folder, keep=True, auto=False, verbose=0)
keras.utils.set_random_seed(7)
model = cached.frozen(network, layers=["conv"])()
model.compile("sgd", "sparse_categorical_crossentropy")
print("begins", flush=True)
model.fit(Reshuffled(), epochs=epochs, verbose=0, callbacks=[cache])
print(json.dumps([cache.statistics.misses, cache.statistics.hits]))
"""


@pytest.mark.landing
class TestProcesses:
    """Real processes on one folder, each in an order of its own."""

    def start(self, folder, seed, pause=0.0, epochs=3):
        here = Path(__file__).parent
        script = SCRIPT.format(paths=[str(here), str(here.parent), str(here.parent.parent)])
        command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
        return subprocess.Popen(
            [*command, str(seed), str(pause), str(epochs)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        )

    def ended(self, process):
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return json.loads(out.splitlines()[-1])

    @pytest.mark.slow
    def test_two_compute_each_row_once_and_a_batch_each(self, tmp_path):
        both = [self.start(tmp_path, seed) for seed in (1, 2)]
        counts = [self.ended(process) for process in both]
        assert sum(misses for misses, _ in counts) <= 64 + 2 * 8
        assert all(misses + hits == 3 * 64 for misses, hits in counts)
        assert samples(tmp_path) == [64]

    @pytest.mark.parametrize("seconds", [0.4, pytest.param(0.0, marks=pytest.mark.slow)])
    def test_any_may_be_killed_at_any_moment(self, seconds, tmp_path):
        victim, other = self.start(tmp_path, 1, 0.01, 500), self.start(tmp_path, 11)
        assert victim.stdout.readline() == "begins\n"
        time.sleep(seconds)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        self.ended(other)
        outcome, statistics = fit(tmp_path, data=cached.images(64))
        assert statistics.misses == 0
        assert_close(outcome, plain_fit(data=cached.images(64)))
        assert samples(tmp_path) == [64]
