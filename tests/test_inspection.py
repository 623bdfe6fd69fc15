"""The commands that look at saved models print what the functions return, and fail in a line."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze.__main__ import main


@pytest.fixture
def saved(plain, tmp_path):
    model = plain()
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    kf.freeze(model, groups=["low"])
    path = tmp_path / "plain.keras"
    model.save(path)
    return str(path), model


def test_groups(saved, capsys):
    path, model = saved
    main(["groups", path, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "plain"
    expected = kf.layer_groups(model)
    assert [row["name"] for row in found["rows"]] == [group.name for group in expected]
    assert [row["total_params"] for row in found["rows"]] == [g.total_params for g in expected]
    assert found["rows"][0]["layers"] == [layer.name for layer in expected[0].layers]
    main(["groups", path])
    assert "from input to head" in capsys.readouterr().out


@pytest.mark.parametrize("by", ["group", "layer"])
def test_report(by, saved, capsys):
    path, model = saved
    main(["report", path, "--by", by, "--json"])
    assert json.loads(capsys.readouterr().out) == kf.parameter_report(model, by=by).to_dict()


@pytest.mark.parametrize("command", ["report", "preview"])
def test_with_a_batch_size_memory_is_shown(command, saved, capsys):
    path, model = saved
    main([command, path, "--batch-size", "8", "--json"])
    found = json.loads(capsys.readouterr().out)
    if command == "report":
        expected = kf.parameter_report(model, batch_size=8).to_dict()
    else:
        expected = kf.GradualUnfreeze().preview(model, 10, batch_size=8).to_dict()
    assert found == json.loads(json.dumps(expected))
    main([command, path, "--batch-size", "8"])
    shown = capsys.readouterr().out
    assert ("batch size 8" if command == "report" else "batches of 8") in shown


def test_preview(saved, capsys, tmp_path):
    path, model = saved
    main(["preview", path, "--epochs", "4", "--schedule", "2", "--json"])
    callback = kf.GradualUnfreeze(2)
    assert json.loads(capsys.readouterr().out) == json.loads(
        json.dumps(callback.preview(model, 4).to_dict())
    )
    file = tmp_path / "plan.yaml"
    callback.to_yaml(file, model, 4)
    main(["preview", path, "--epochs", "4", "--schedule", str(file)])
    shown = capsys.readouterr().out
    assert "epoch 3" in shown
    main(["preview", path, "--epochs", "4", "--backbone", "low", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["training"] for row in rows] == [["head"], ["head", "low"]]


def test_check(saved, capsys):
    path, model = saved
    main(["check", path, "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(kf.check(model).to_dict()))
    main(["check", path])
    shown = capsys.readouterr().out
    assert shown.startswith("plain: nothing found")
    assert "Not checked:" in shown


@pytest.fixture
def data(tmp_path):
    """Return the path of an archive with three classes, which the inputs tell apart."""
    y = np.arange(90) % 3
    x = np.random.default_rng(0).normal(size=(90, 4)) + 4 * np.eye(4)[y]
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y + 1)
    return str(path)


def test_check_with_data_and_a_schedule(saved, data, capsys, tmp_path):
    path, model = saved
    arrays = np.load(data)
    main(["check", path, "--data", data, "--json"])
    shown = capsys.readouterr().out
    expected = kf.check(model, arrays["x"], arrays["y"])
    assert json.loads(shown) == json.loads(json.dumps(expected.to_dict()))
    assert "labels" in expected.names  # 3 is no class of three
    given = ["--schedule", "1", "--batch-size", "4", "--backbone", "low"]
    main(["check", path, "--data", data, *given, "--json"])
    shown = json.loads(capsys.readouterr().out)
    callback = kf.GradualUnfreeze(1, backbone="low")
    expected = kf.check(model, arrays["x"], arrays["y"], schedule=callback, batch_size=4)
    assert shown == json.loads(json.dumps(expected.to_dict()))


def test_suggest_measures_data(saved, data, capsys):
    path, model = saved
    main(["suggest", path, "--data", data, "--backbone", "low", "--json"])
    shown = json.loads(capsys.readouterr().out)
    arrays = np.load(data)
    expected = kf.suggest(model, arrays["x"], arrays["y"], backbone="low")
    assert shown == json.loads(json.dumps(expected.to_dict()))
    assert len(shown["probes"]) == 1


def test_inputs_by_name(tmp_path, capsys):
    inputs = [keras.Input((2,), name=name) for name in ("left", "right")]
    outputs = keras.layers.Dense(1)(keras.layers.add(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    bad, good = np.full((6, 2), np.nan), np.ones((6, 2))
    np.savez(tmp_path / "data.npz", left=good, right=bad)
    main(["check", str(tmp_path / "two.keras"), "--data", str(tmp_path / "data.npz")])
    assert "NaN" in capsys.readouterr().out


def test_suggest(saved, capsys):
    path, model = saved
    given = ["--samples", "90", "--classes", "3", "--similarity", "near"]
    main(["suggest", path, *given, "--json"])
    expected = kf.suggest(model, n_samples=90, n_classes=3, similarity="near")
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected.to_dict()))
    main(["suggest", path, *given])
    assert "freeze depth" in capsys.readouterr().out


def test_depths(saved, capsys):
    path, model = saved
    main(["depths", path, "--json", "--batch-size", "8"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["frozen"] for row in rows] == [[], ["low"], ["low", "middle"]]
    for row in rows:
        kf.unfreeze(model, matching=".")
        if row["depth"]:
            kf.freeze(model, groups=row["depth"])
        report = kf.parameter_report(model, batch_size=8)
        assert row["trainable_params"] == report.trainable_params
        assert row["memory_bytes"] == report.memory.total_bytes
    main(["depths", path])
    shown = capsys.readouterr().out
    assert "frozen up to" in shown
    assert "memory" not in shown


def test_help_lists_all_commands(capsys):
    main([])
    shown = capsys.readouterr().out
    for name in ("groups", "report", "check", "suggest", "depths", "preview", "demo"):
        assert f"    {name}" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["groups", "gone.keras"], "gone.keras: File not found"),
        (["groups", "{path}", "--backbone", "nobody"], "'nobody'"),
        (["preview", "{path}", "--schedule", "sometimes"], "sometimes"),
        (["preview", "{path}", "--epochs", "0"], "epochs"),
        (["report", "{path}", "--batch-size", "0"], "batch_size"),
        (["report", "{path}", "--import", "no_such_module"], "No module named 'no_such_module'"),
        (["suggest", "{path}"], "--data"),
        (["suggest", "{path}", "--samples", "9"], "--similarity"),
        (["check", "{path}", "--data", "x.csv"], "np.savez"),
        (["check", "{path}", "--data", "{named}"], "needs the inputs as x and the targets as y"),
        (["check", "{path}", "--data", "{named}"], "has images and labels"),
        (["check", "{path}", "--data", "gone.npz"], "gone.npz"),
        (["check", "{path}", "--data", "{torn}"], "zip"),
        (["check", "{path}", "--data", "{single}"], "write np.savez(path, x=x, y=y)"),
        (["check", "{path}", "--data", "{empty}"], "has y"),
    ],
)
def test_errors_are_a_line(arguments, text, saved, tmp_path):
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "empty.npz", y=np.zeros(3))
    np.savez(tmp_path / "named.npz", images=np.zeros((3, 4)), labels=np.zeros(3))
    np.save(tmp_path / "single.npy", np.zeros((3, 4)))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    files = {name: tmp_path / f"{name}.npz" for name in ("torn", "empty", "named", "single")}
    with pytest.raises(SystemExit) as raised:
        main([argument.format(path=saved[0], **files) for argument in arguments])
    assert text in raised.value.code
    assert "\n" not in raised.value.code


def test_data_that_do_not_fit_are_said_to_be_so(saved, tmp_path):
    np.savez(tmp_path / "wide.npz", x=np.zeros((30, 9)), y=np.arange(30) % 3)
    with pytest.raises(SystemExit) as raised:
        main(["suggest", saved[0], "--data", str(tmp_path / "wide.npz"), "--backbone", "low"])
    assert "has the shape (None, 9), and the model takes (None, 4)" in raised.value.code
    assert "--import" not in raised.value.code


def test_modules_are_named_as_files_too_and_advised_once(saved, tmp_path, capsys):
    main(["groups", saved[0], "--import", "json.py"])
    assert "from input to head" in capsys.readouterr().out
    (tmp_path / "odd.keras").write_text("no archive")
    for given, is_advised in (([], True), (["--import", "json"], False)):
        with pytest.raises(SystemExit) as raised:
            main(["groups", str(tmp_path / "odd.keras"), *given])
        assert ("pass --import" in raised.value.code) == is_advised


def test_code_in_a_file_is_trusted_on_demand(tmp_path, capsys):
    path = str(tmp_path / "own.keras")
    own = keras.layers.Lambda(lambda x: 2 * x)
    keras.Sequential([keras.Input((2,)), own, keras.layers.Dense(1)]).save(path)
    with pytest.raises(SystemExit) as raised:
        main(["groups", path])
    assert "--unsafe" in raised.value.code
    main(["groups", path, "--unsafe"])
    assert "lambda" in capsys.readouterr().out


MODULE = """
import keras

@keras.saving.register_keras_serializable("own")
class Scaled(keras.layers.Dense):
    pass
"""


@pytest.mark.slow
def test_classes_of_ones_own_are_imported(tmp_path):
    (tmp_path / "own_layers.py").write_text(MODULE)
    script = (
        "import keras, own_layers;"
        "keras.Sequential([keras.Input((2,)), own_layers.Scaled(3)]).save('own.keras')"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    assert run("-c", script).returncode == 0
    without = run("-m", "keras_freeze", "groups", "own.keras")
    assert without.returncode == 1
    assert "Traceback" not in without.stderr
    assert "pass --import" in without.stderr
    shown = run("-m", "keras_freeze", "groups", "own.keras", "--import", "own_layers", "--json")
    assert json.loads(shown.stdout)["rows"][0]["total_params"] == 9
