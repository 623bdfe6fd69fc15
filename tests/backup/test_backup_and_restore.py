"""BackupAndRestore: what it keeps, what it refuses, and files that can't be trusted."""

import collections
import copy
import os
import random
import re
import shutil
import threading
import warnings

import conftest
import keras
import numpy as np
import optimizer_table
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.backup import archive, callback_state
from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.model_picture import every_layer
from keras_freeze.schedules import AfterEpochs, FreezeSchedule, OnPlateau, Phase, SlantedTriangular

backend = pytest.mark.backend
EPOCHS = 6


class Crash(keras.callbacks.Callback):
    """Ends a fit as an interruption would, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt


def train(
    build,
    data_for,
    callbacks,
    optimizer="adam",
    epochs=EPOCHS,
    model=None,
    eager=True,
    **settings,
):
    """Fit a new model, and return it with its history; trace its steps where they matter."""
    if model is None:
        model = build()
        losses = ["sparse_categorical_crossentropy", "mse"][: len(model.outputs)]
        made = optimizer() if callable(optimizer) else optimizer
        model.compile(made, losses if len(losses) > 1 else losses[0], run_eagerly=eager)
    x, y = data_for(model)
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **settings}
    history = model.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments)
    return model, history


def state_of(model):
    weights = [optimizer_state.to_host(v).tobytes() for v in model.weights]
    slots = [optimizer_state.to_host(v).tobytes() for v in model.optimizer.variables]
    flags = [v.trainable for v in model.weights]
    layers = [layer.trainable for layer in every_layer(model)]
    return weights, slots, flags, layers


def interrupted(build, data_for, folder, callbacks, at=3, first=True, **settings):
    """Train, be interrupted in an epoch, and train again with everything new."""

    def all_callbacks():
        backup = kf.BackupAndRestore(folder)
        return [backup, *callbacks()] if first else [*callbacks(), backup]

    with pytest.raises(KeyboardInterrupt):
        train(build, data_for, [*all_callbacks(), Crash(at)], **settings)
    return train(build, data_for, [*all_callbacks(), Crash(None)], **settings)


def plan(**phase):
    return kf.FreezeScheduler(
        FreezeSchedule([Phase(2, until=2, **phase), Phase(1, until=2, **phase), Phase(0, **phase)]),
        rates=2.0,
        verbose=0,
    )


RUNS = {
    "gradual": lambda: [kf.GradualUnfreeze(log_details=True, verbose=0)],
    "curve": lambda: [plan(curve=SlantedTriangular(7))],
    "follow": lambda: [plan(batch_norm="follow")],
    "statistics": lambda: [plan(batch_norm="statistics")],
    "train": lambda: [plan(batch_norm="train")],
    "biases": lambda: [kf.FreezeScheduler({0: Phase(2, weights="kernel"), 3: 1}, verbose=0)],
    "best": lambda: [plan(restore_best="loss")],
    "no schedule": lambda: [],
}
AT_EVERY_COMMIT = ("gradual", "best", "no schedule")


# Each in one of the two places, since all have to be behind the others in the end.
@backend
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
@pytest.mark.parametrize(
    ("run", "first"),
    [
        pytest.param(run, n % 2 == 0, marks=() if run in AT_EVERY_COMMIT else pytest.mark.slow)
        for n, run in enumerate(RUNS)
    ],
)
def test_an_interrupted_run_ends_like_another(run, first, nested, data_for, tmp_path):
    settings = {"eager": False}
    whole, history = train(nested, data_for, [*RUNS[run](), Crash(None)], **settings)
    resumed, told = interrupted(nested, data_for, tmp_path, RUNS[run], first=first, **settings)
    assert state_of(resumed) == state_of(whole)
    assert told.history == history.history
    assert told.epoch == history.epoch


@pytest.mark.landing
@backend
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("batch_norm", "nested") else pytest.mark.slow)
        for name in conftest.BUILDERS
    ],
)
def test_every_kind_of_model_is_resumed(name, request, data_for, tmp_path):
    build = request.getfixturevalue(name)

    def schedule():
        return [kf.GradualUnfreeze(1, verbose=0)]

    settings = {"epochs": 4, "eager": False}
    whole, history = train(build, data_for, [*schedule(), Crash(None)], **settings)
    resumed, told = interrupted(build, data_for, tmp_path, schedule, at=2, **settings)
    assert state_of(resumed) == state_of(whole)
    assert told.history == history.history


@pytest.mark.slow_on_jax
@backend
def test_newly_unfrozen_variables_keep_their_own_step_counts(plain, data_for, tmp_path):
    def schedule():
        return [kf.GradualUnfreeze(2, verbose=0)]

    whole, _ = train(plain, data_for, schedule())
    resumed, _ = interrupted(plain, data_for, tmp_path, schedule, at=5)

    def starts(model):
        rules = update_rules.rules_of(model.optimizer).cohorts
        return [rules[id(v)].start if id(v) in rules else 0 for v in model.weights]

    assert starts(resumed) == starts(whole) == [16, 16, 8, 8, 0, 0]


@backend
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau may lower:UserWarning")
@pytest.mark.slow
def test_the_counters_of_stock_callbacks_continue(plain, data_for, tmp_path):
    def beside():
        return [
            kf.GradualUnfreeze(verbose=0),
            keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=10.0, cooldown=1),
            keras.callbacks.EarlyStopping("loss", patience=5, min_delta=10.0, start_from_epoch=1),
        ]

    def fit(callbacks, **settings):
        return train(plain, data_for, callbacks, epochs=12, **settings)

    with pytest.warns(UserWarning, match="EarlyStopping may end training"):
        whole, history = fit([*beside(), Crash(None)])
    assert 3 < len(history.epoch) < 12  # so that the counters matter
    with pytest.warns(UserWarning, match="EarlyStopping may end training"):
        resumed, told = interrupted(plain, data_for, tmp_path, beside, at=4, epochs=12)
    assert told.history == history.history
    assert told.history["learning_rate"][-1] < told.history["learning_rate"][0]
    assert state_of(resumed) == state_of(whole)


def test_a_callback_with_other_state_is_named_in_a_warning(plain, data_for, tmp_path):
    class Holds(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.lock = None

        def on_epoch_end(self, epoch, logs=None):
            self.lock = threading.Lock()

    backup = kf.BackupAndRestore(tmp_path)
    with pytest.warns(UserWarning, match="can't keep 'lock' of Holds.*training_state") as caught:
        train(plain, data_for, [backup, Holds()], epochs=3)
    assert [warning.category for warning in caught].count(UserWarning) == 1


def test_a_log_that_a_restart_would_empty_is_warned_of(plain, data_for, tmp_path):
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    with pytest.warns(UserWarning, match=r"log.csv'\) starts its file over.*append=True"):
        train(plain, data_for, [logger, kf.BackupAndRestore(tmp_path / "backup")], epochs=1)


def test_stock_callbacks_give_no_warning(plain, data_for, tmp_path):
    stock = keras.callbacks
    beside = [
        stock.CSVLogger(tmp_path / "log.csv", append=True),
        stock.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True),
        stock.LearningRateScheduler(lambda epoch: 0.1),
        stock.TerminateOnNaN(),
        stock.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(plain, data_for, [kf.BackupAndRestore(tmp_path / "backup"), *beside], epochs=2)


class Holder(keras.callbacks.Callback):
    """Counts epochs in many forms, all of them changed in place."""

    def __init__(self, shared):
        super().__init__()
        self.listed, self.seen, self.counts = shared, set(), collections.Counter()
        self.total, self.queue = keras.Variable(0.0), collections.deque()

    def on_epoch_end(self, epoch, logs=None):
        self.listed.append(epoch)
        self.seen.add(epoch)
        self.counts[epoch % 2] += 1
        self.total.assign_add(1.0)
        self.fresh = [epoch]


@pytest.mark.slow
def test_what_callbacks_change_in_place_is_kept(plain, data_for, tmp_path):
    made, shared = [], []

    def callbacks():
        shared.append([])
        made.append(Holder(shared[-1]))
        return [made[-1]]

    interrupted(plain, data_for, tmp_path, callbacks)
    last = made[-1]
    assert shared[-1] is last.listed  # which the script holds too
    assert last.listed == list(range(EPOCHS))
    assert last.seen == set(range(EPOCHS))
    assert last.counts == {0: 3, 1: 3}
    assert float(last.total.numpy()) == EPOCHS
    assert last.fresh == [EPOCHS - 1]


def test_containers_that_can_not_be_kept_are_named(plain, data_for, tmp_path):
    class Queues(Holder):
        def on_epoch_end(self, epoch, logs=None):
            self.queue.append(epoch)
            self.labels = np.array(["cat", "dog"])

    with pytest.warns(UserWarning) as caught:
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), Queues([])], epochs=2)
    said = [str(w.message) for w in caught if "can't keep" in str(w.message)]
    assert [text.split("keep '")[1].split("'")[0] for text in said] == ["queue", "labels"]


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.at_commit("1")
def test_a_multi_optimizer_is_resumed_whatever_the_order_of_its_parts(
    at, plain, data_for, tmp_path
):
    def settings():
        return {"optimizer": optimizer_table.ALL["multi-map"]}

    def schedule():
        return [kf.FreezeScheduler({0: Phase(2, weights="kernel"), 2: 1, 4: None}, verbose=0)]

    whole, history = train(plain, data_for, schedule(), **settings())
    resumed, told = interrupted(plain, data_for, tmp_path, schedule, at=at, **settings())
    assert told.history == history.history
    assert state_of(resumed)[0] == state_of(whole)[0]


def test_two_fits_of_a_script_resume_with_the_second(plain, data_for, tmp_path):
    """The first is complete and runs no epoch; what it knew goes into the second all the same."""

    def script(crash=None):
        trigger = AfterEpochs(2) | OnPlateau("loss", 9)
        callback = kf.GradualUnfreeze(trigger, total_epochs=8, verbose=0)
        first = kf.BackupAndRestore(tmp_path / "first", delete_checkpoint=False)
        second = kf.BackupAndRestore(tmp_path / "second", delete_checkpoint=False)
        model, _ = train(plain, data_for, [callback, first], epochs=3)
        again = [callback, second, Crash(crash)]
        return train(plain, data_for, again, model=model, epochs=6, initial_epoch=3)

    whole, history = script()
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second")
    with pytest.raises(KeyboardInterrupt):
        script(crash=3)
    resumed, told = script()
    assert told.history == history.history
    assert state_of(resumed) == state_of(whole)


def test_an_unbuilt_model_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    backup = kf.BackupAndRestore(tmp_path)
    backup.set_model(model)
    with pytest.raises(ValueError, match="must get a built model"):
        backup.on_train_begin()


def test_a_callback_may_determine_what_to_keep(plain, data_for, tmp_path):
    class Own(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs = set()

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.add(epoch)

        def training_state(self):
            return {"epochs": sorted(self.epochs)}

        def check_training_state(self, state):
            pass

        def set_training_state(self, state):
            self.epochs = set(state["epochs"])
            return True  # which says nothing

    made = []

    def callbacks():
        made.append(Own())
        return [made[-1]]

    interrupted(plain, data_for, tmp_path, callbacks)
    assert made[-1].epochs == set(range(EPOCHS))


# Files


def backups(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_backups_are_kept_and_removed_at_the_end(plain, data_for, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path / "b"), Crash(4)])
    assert backups(tmp_path / "b") == ["epoch-000003.npz", "epoch-000004.npz"]
    (tmp_path / "b" / "epoch-000005.unfinished").write_bytes(b"torn")
    train(plain, data_for, [kf.BackupAndRestore(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


def test_what_a_killed_process_left_is_removed_by_the_next_backup(tmp_path):
    (tmp_path / "epoch-000001.npz.7.unfinished").write_bytes(b"torn")
    archive.BackupFolder(tmp_path).write(2, {})
    assert backups(tmp_path) == ["epoch-000002.npz"]


def test_what_else_is_in_the_folder_stays(plain, data_for, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(plain, data_for, [kf.BackupAndRestore(tmp_path)], epochs=2)
    assert backups(tmp_path) == ["notes.txt"]


def test_backups_stay_if_they_are_to(plain, data_for, tmp_path):
    backup = kf.BackupAndRestore(tmp_path, delete_checkpoint=False)
    train(plain, data_for, [backup], epochs=2)
    assert backups(tmp_path) == ["epoch-000001.npz", "epoch-000002.npz"]


DAMAGE = {
    "cut off": lambda data: data[: len(data) // 2],
    "cut off at its end": lambda data: data[:-1],
    "empty": lambda data: b"",
    "a bit flipped in an array": lambda data: flipped(data, data.rindex(b"\x93NUMPY") + 128),
    "a bit flipped in the manifest": lambda data: flipped(data, 60),
    "something else": lambda data: b"not a backup",
}


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "schedule",
    [lambda: kf.FreezeScheduler({0: 2, 3: 1}), lambda: kf.AutoFreeze(intervals=2)],
)
def test_what_trains_is_said_where_a_training_resumes(schedule, plain, data_for, tmp_path, capsys):
    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(backup), schedule(), Crash(2)])
    capsys.readouterr()
    train(plain, data_for, [kf.BackupAndRestore(backup), schedule()])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert re.match(
        r"Epoch [2-9]/\d+: .* trains? at .*; [\d,]+ of [\d,]+ parameters train", said[0]
    )
    assert not any("train at" in line for line in said[1:])


def test_a_damaged_backup_falls_back_to_the_one_before(plain, data_for, tmp_path, capsys):
    def schedule():
        return [kf.GradualUnfreeze(verbose=0)]

    whole, history = train(plain, data_for, schedule())
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path / "whole"), *schedule(), Crash(4)])
    newest = tmp_path / "whole" / "epoch-000004.npz"
    data = newest.read_bytes()
    for damage in DAMAGE.values():
        newest.write_bytes(damage(data))
        with pytest.raises(ValueError, match="torn or corrupt"), newest.open("rb") as file:
            archive.read(file)
    with pytest.warns(UserWarning, match=r"epoch-000004.npz can't be used.*torn or corrupt"):
        resumed, told = train(
            plain, data_for, [kf.BackupAndRestore(tmp_path / "whole"), *schedule()]
        )
    assert "resuming with epoch 4, from epoch-000003.npz." in capsys.readouterr().out
    assert state_of(resumed) == state_of(whole)
    assert told.history == history.history


def test_without_a_backup_that_can_be_read_nothing_is_loaded(plain, data_for, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), Crash(2)])
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    before = state_of(model)
    with (
        pytest.warns(UserWarning, match="can't be used"),
        pytest.raises(ValueError, match=r"epoch-000002\.npz, epoch-000001\.npz can't be"),
    ):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path)], model=model)
    assert state_of(model)[0] == before[0]


VALUES = {
    "nested": {"a": [1, 2.5, None, True, "text"], "b": {"c": (1, [2])}},
    "keys that are no text": {1: "one", (1, 2): "pair", None: 0},
    "not finite": [float("inf"), -float("inf")],
    "arrays": [np.arange(6, dtype="int8").reshape(2, 3), np.zeros((0, 3)), np.array(True)],
    "scalars": [np.float32(1.5), np.int64(3)],
    "a key like our own": {"$": "dict"},
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_written_is_read(name, tmp_path):
    with (tmp_path / "file").open("wb") as file:
        archive.write(file, VALUES[name])
    read = archive.read(tmp_path / "file")
    assert callback_state._same(read, VALUES[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "complex64", "bool"])
def test_any_dtype_is_written_and_read(dtype, tmp_path):
    array = np.ones((2, 3), np.dtype(dtype))
    with (tmp_path / "file").open("wb") as file:
        archive.write(file, [array])
    (read,) = archive.read(tmp_path / "file")
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    value = {"numbers": [1, 2.5], "array": np.arange(5.0)}
    with (tmp_path / "file").open("wb") as file:
        archive.write(file, value)
    data = (tmp_path / "file").read_bytes()
    refused = 0
    for place in range(len(data)):
        (tmp_path / "file").write_bytes(flipped(data, place))
        try:
            assert callback_state._same(archive.read(tmp_path / "file"), value), place
        except ValueError:
            refused += 1
    assert refused > len(data) // 2  # the others are dates and the like


def test_a_file_holds_no_code(tmp_path):
    with (tmp_path / "file").open("wb") as file, pytest.raises(TypeError, match="can't hold a obj"):
        archive.write(file, {"value": object()})


# Another script


def another_model():
    return as_if_trained(keras.Sequential([keras.Input((4,)), *map(keras.layers.Dense, (5, 3))]))


def changed_activation():
    model = as_if_trained(conftest.build_plain())
    model.layers[0].activation = keras.activations.tanh
    return model


CHANGES = {
    "another model": (
        {"build": lambda: another_model()},
        "made with another model",
    ),
    "another optimizer": ({"optimizer": "sgd"}, "another optimizer: 'Adam' then, 'SGD' now"),
    "other slots": (
        {"optimizer": lambda: keras.optimizers.Adam(amsgrad=True)},
        r"made with another optimizer \(its settings\)",
    ),
    "another schedule": (
        {"callback": lambda: kf.GradualUnfreeze(1, verbose=0)},
        r"GradualUnfreeze\(schedule=...\) must be that of the backup",
    ),
    "another number of epochs, and so another even schedule": (
        {"epochs": 9},
        r"GradualUnfreeze\(schedule=...\) must be that of the backup",
    ),
    "other groups": (
        {
            "callback": lambda: kf.GradualUnfreeze(
                {0: "head", 2: "middle", 4: "low"}, groups={"low": "low|mid", "top": "head"}
            )
        },
        "must name layer groups of the model",
    ),
    "other rates": (
        {"callback": lambda: kf.GradualUnfreeze(rates=None, verbose=0)},
        r"GradualUnfreeze\(rates=...\) must be that of the backup",
    ),
    "gradients to record": (
        {"callback": lambda: kf.GradualUnfreeze(log_details=["gradients"], verbose=0)},
        r"GradualUnfreeze\(log_details=...\) must be that of the backup",
    ),
    "another activation": (
        {"build": lambda: changed_activation()},
        r"made with another model \(its settings\)",
    ),
    "optimizer settings": (
        {"optimizer": lambda: keras.optimizers.Adam(beta_1=0.1)},
        r"made with another optimizer \(its settings\)",
    ),
    "another batch size": (
        {"batch_size": 8},
        "another number of steps in an epoch \\(batch_size=, or the data\\): 4 then, 2 now",
    ),
    "fewer epochs than are done": (
        {"epochs": 2, "callback": lambda: Crash(None)},
        "must hold backups of this fit",
    ),
    "no schedule": ({"callback": lambda: Crash(None)}, "but GradualUnfreeze is missing"),
    "another callback": (
        {"callback": lambda: kf.FreezeScheduler({0: 1}, verbose=0)},
        "but FreezeScheduler is new",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.at_commit(
    "another model",
    "other slots",
    "another number of epochs, and so another even schedule",
    "other rates",
    "optimizer settings",
    "fewer epochs than are done",
    "another callback",
)
def test_a_changed_script_is_refused(change, plain, data_for, tmp_path):
    changes, message = CHANGES[change]
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), kf.GradualUnfreeze(), Crash(3)])
    script = {"build": plain, "callback": kf.GradualUnfreeze, **changes}
    build, callback = script.pop("build"), script.pop("callback")()
    with pytest.raises(ValueError, match=message):
        train(build, data_for, [kf.BackupAndRestore(tmp_path), callback], **script)
    assert backups(tmp_path) == ["epoch-000002.npz", "epoch-000003.npz"]


def test_other_groups_under_the_same_names_are_refused(plain, data_for, tmp_path):
    def schedule(**groups):
        return kf.FreezeScheduler({0: 1, 2: None}, groups=groups, verbose=0)

    with pytest.raises(KeyboardInterrupt):
        first = schedule(low="low", top="middle|head")
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), first, Crash(3)])
    other = schedule(low="low", middle="middle", top="head")
    with pytest.raises(ValueError, match=r"\(groups=...\) must be that of the backup"):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), other])


def test_other_weights_that_never_train_are_refused(plain, data_for, tmp_path):
    def schedule(keep_frozen):
        return kf.FreezeScheduler({0: 2, 2: 1}, keep_frozen=keep_frozen, verbose=0)

    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), schedule("low"), Crash(3)])
    for other in (None, "middle"):
        with pytest.raises(ValueError, match=r"\(keep_frozen=...\) must be that of the backup"):
            train(plain, data_for, [kf.BackupAndRestore(tmp_path), schedule(other)])


def test_names_that_keras_counts_up_do_not_matter(data_for, tmp_path):
    def build():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(3, "softmax")]
        )

    _, told = interrupted(build, data_for, tmp_path, lambda: [])
    assert told.epoch == list(range(EPOCHS))


# Beside Keras's own


@pytest.mark.parametrize("callback", [kf.GradualUnfreeze, lambda: kf.FreezeScheduler({0: 1})])
def test_the_stock_backup_beside_a_schedule_is_refused(callback, plain, data_for, tmp_path):
    stock = keras.callbacks.BackupAndRestore(tmp_path / "stock")
    with pytest.raises(ValueError, match=re.escape("Use keras_freeze.BackupAndRestore with the")):
        train(plain, data_for, [callback(), stock])


def test_it_is_a_stock_backup_too():
    assert issubclass(kf.BackupAndRestore, keras.callbacks.BackupAndRestore)


@backend
def test_a_second_fit_in_the_same_process_begins_where_it_should(plain, data_for, tmp_path):
    def callbacks():
        return [kf.GradualUnfreeze(2, verbose=0)]

    resumed, _ = interrupted(plain, data_for, tmp_path, callbacks)
    _, history = train(plain, data_for, [], model=resumed, epochs=2)
    assert history.epoch == [0, 1]


@backend
@pytest.mark.slow
def test_a_stop_before_the_interruption_is_kept(plain, data_for, tmp_path):
    """Interrupted after the last backup, before the script could continue."""

    def callbacks():
        return [
            kf.FreezeScheduler(
                FreezeSchedule([Phase(1, until=2), Phase(0, until=AfterEpochs(1))]), verbose=0
            )
        ]

    class CrashAtTheEnd(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise KeyboardInterrupt

    whole, history = train(plain, data_for, callbacks())
    assert history.epoch == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [*callbacks(), CrashAtTheEnd(), kf.BackupAndRestore(tmp_path)])
    resumed, told = train(plain, data_for, [*callbacks(), kf.BackupAndRestore(tmp_path)])
    assert told.history == history.history
    assert state_of(resumed)[:2] == state_of(whole)[:2]


def test_two_fits_and_a_copy(plain, data_for, tmp_path):
    backup = kf.BackupAndRestore(tmp_path)
    model, _ = train(plain, data_for, [backup], epochs=2)
    _, history = train(plain, data_for, [backup], epochs=2, model=model)
    assert history.epoch == [0, 1]
    twin = copy.deepcopy(backup)
    assert twin.backup_dir == backup.backup_dir
    assert twin._model is None


def test_the_plateau_continues_counting(plain, data_for, tmp_path):
    def callbacks():
        schedule = FreezeSchedule([Phase(2, until=OnPlateau("loss", 4, min_delta=9.0)), Phase(0)])
        return [kf.FreezeScheduler(schedule, verbose=0)]

    _, history = train(plain, data_for, callbacks(), epochs=7)
    assert history.history["trainable_params"] == [18] * 5 + [83] * 2
    _, told = interrupted(plain, data_for, tmp_path, callbacks, at=4, epochs=7)
    assert told.history == history.history


# Random state, metrics and losses


class Noisy(keras.layers.Layer):
    """Draws from Keras's global generator, having no seed of its own."""

    def call(self, x, training=False):
        return keras.random.dropout(x, 0.3) if training else x


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras refuses to trace this on JAX")
@backend
@pytest.mark.parametrize("eager", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_drawn_without_a_seed_is_resumed(eager, data_for, tmp_path):
    def build():
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        low, head = keras.layers.Dense(6), keras.layers.Dense(3, "softmax")
        return as_if_trained(keras.Sequential([keras.Input((4,)), low, Noisy(), head]))

    whole, history = train(build, data_for, [Crash(None)], eager=eager)
    resumed, told = interrupted(build, data_for, tmp_path, lambda: [], eager=eager)
    assert told.history == history.history
    assert state_of(resumed)[:2] == state_of(whole)[:2]


class Seen(keras.metrics.Metric):
    """Counts samples over the whole training."""

    def __init__(self):
        super().__init__(name="seen")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self):
        return keras.ops.convert_to_tensor(self.count)

    def reset_state(self):
        pass


def compiled_with(build, **settings):
    def make():
        model = build()
        settings.setdefault("loss", "sparse_categorical_crossentropy")
        model.compile("adam", run_eagerly=keras.backend.backend() != "jax", **settings)
        return model

    return make


def fit_twice(make, data_for, folder, again=None):
    """Be interrupted in a fit, and fit again with all new; return the model and the history."""
    for at, built in ((3, make), (None, again or make)):
        model = built()
        callbacks = [kf.BackupAndRestore(folder), Crash(at)]
        try:
            history = train(None, data_for, callbacks, model=model)[1]
        except KeyboardInterrupt:
            continue
    return model, history


@backend
@pytest.mark.slow
def test_a_metric_that_counts_over_the_whole_training_continues(plain, data_for, tmp_path):
    def make():
        return compiled_with(plain, metrics=[Seen()])()

    _, history = fit_twice(make, data_for, tmp_path)
    assert history.history["seen"] == [16.0 * (epoch + 1) for epoch in range(EPOCHS)]


@pytest.mark.slow
def test_other_metrics_are_said_to_begin_anew(plain, data_for, tmp_path):
    first, then = compiled_with(plain, metrics=[Seen()]), compiled_with(plain)
    with pytest.warns(UserWarning, match="made with other metrics"):
        fit_twice(first, data_for, tmp_path, again=then)


@pytest.mark.parametrize(
    ("loss", "other"),
    [
        ("sparse_categorical_crossentropy", "mse"),
        (
            keras.losses.SparseCategoricalCrossentropy(),
            keras.losses.SparseCategoricalCrossentropy(ignore_class=1),
        ),
    ],
    ids=["another", "other settings"],
)
def test_another_loss_is_refused(loss, other, plain, data_for, tmp_path):
    first, then = compiled_with(plain, loss=loss), compiled_with(plain, loss=other)
    with pytest.raises(ValueError, match="made with another loss"):
        fit_twice(first, data_for, tmp_path, again=then)


# What a callback holds


class Holding(keras.callbacks.Callback):
    counted = 0

    def __init__(self, **held):
        super().__init__()
        vars(self).update(held)


@pytest.mark.slow
def test_plain_data_is_kept_under_any_name(plain, data_for, tmp_path):
    class Counting(Holding):
        def on_epoch_end(self, epoch, logs=None):
            self.min_delta += 1
            self.monitor_op.append(epoch)

    made = []

    def callbacks():
        made.append(Counting(min_delta=0, monitor_op=[]))
        return made[-1:]

    interrupted(plain, data_for, tmp_path, callbacks)
    assert made[-1].min_delta == EPOCHS
    assert made[-1].monitor_op == list(range(EPOCHS))


GENERATORS = {
    "pcg64": lambda: np.random.default_rng(0),
    "mt19937": lambda: np.random.Generator(np.random.MT19937(0)),
    "legacy": lambda: np.random.RandomState(0),
    "python": lambda: random.Random(0),
}


def test_random_generators_of_a_callback_continue(plain, data_for, tmp_path):
    class Drawing(Holding):
        def on_epoch_end(self, epoch, logs=None):
            for kind in GENERATORS:
                self.drawn[kind].append(float(getattr(self, kind).random()))

    made = []

    def callbacks():
        generators = {kind: make() for kind, make in GENERATORS.items()}
        made.append(Drawing(**generators, drawn={kind: [] for kind in GENERATORS}))
        return made[-1:]

    interrupted(plain, data_for, tmp_path, callbacks)
    for kind, make in GENERATORS.items():
        rng = make()
        assert made[-1].drawn[kind] == [float(rng.random()) for _ in range(EPOCHS)], kind


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.Variable")
@pytest.mark.slow
def test_a_bare_variable_of_a_callback_continues(plain, data_for, tmp_path):
    import tensorflow as tf

    class Counting(Holding):
        def on_epoch_end(self, epoch, logs=None):
            self.total.assign_add(2)

    made = []

    def callbacks():
        made.append(Counting(total=tf.Variable(0)))
        return made[-1:]

    interrupted(plain, data_for, tmp_path, callbacks)
    assert int(made[-1].total) == 2 * EPOCHS


def test_what_is_counted_on_a_class_is_named(plain, data_for, tmp_path):
    class Counting(Holding):
        epochs = []  # noqa: RUF012

        def on_epoch_end(self, epoch, logs=None):
            type(self).counted += 1
            self.epochs.append(epoch)

    with pytest.warns(UserWarning) as caught:
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), Counting()], epochs=3)
    said = [str(w.message) for w in caught if "can't keep" in str(w.message)]
    named = sorted(text.split("keep '")[1].split("'")[0] for text in said)
    assert named == ["Counting.counted", "Counting.epochs"]


def test_what_a_layer_holds_that_is_no_variable_is_named(data_for, tmp_path):
    class Rolling(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="rolling")
            self.rng = np.random.default_rng(0)

        def call(self, x):
            return x

    def build():
        return keras.Sequential([keras.Input((4,)), Rolling(), keras.layers.Dense(3, "softmax")])

    with pytest.warns(UserWarning, match=r"can't keep rolling\.rng \(Generator\)"):
        train(build, data_for, [kf.BackupAndRestore(tmp_path)], epochs=1)


# Refused before the first epoch


class Begun(keras.callbacks.Callback):
    epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1


def refused(match, build, data_for, folder, **settings):
    begun = Begun()
    with pytest.raises(ValueError, match=match):
        train(build, data_for, [kf.BackupAndRestore(folder), begun], **settings)
    assert begun.epochs == 0


def test_a_folder_that_can_not_be_written_to(plain, data_for, tmp_path):
    (tmp_path / "file").write_text("")
    rule = r"backup_dir=...\) must be a folder that can be written to.*"
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(rule + "can't be written", plain, data_for, folder)


@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
def test_a_full_disk(plain, data_for, tmp_path):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        refused("with space for two backups.*File too large", plain, data_for, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@backend
def test_a_model_that_could_not_be_restored(plain, data_for, tmp_path):
    class Own(keras.Sequential):
        def compile(self, *args, **kwargs):
            super().compile(*args, **kwargs)
            self.own = keras.optimizers.SGD(0.1)

    def build():
        return Own([keras.Input((4,)), keras.layers.Dense(3, "softmax")])

    refused(r"with optimizers of its own \(own\)", build, data_for, tmp_path)


# A resume that differs


@pytest.mark.slow
def test_a_longer_training_is_told_how_to_keep_its_schedule(plain, data_for, tmp_path):
    def fit(epochs, crash, **settings):
        callbacks = [kf.GradualUnfreeze(verbose=0, **settings), kf.BackupAndRestore(tmp_path)]
        return train(plain, data_for, [*callbacks, Crash(crash)], epochs=epochs)

    with pytest.raises(KeyboardInterrupt):
        fit(6, 3)
    message = "made in a training of 6 epochs, and this one has 9: pass total_epochs=6 to keep"
    with pytest.raises(ValueError, match=message):
        fit(9, None)
    _, history = fit(9, None, total_epochs=6)
    assert history.epoch == list(range(9))


def test_a_folder_of_a_longer_fit_is_refused(plain, data_for, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path), Crash(2)], epochs=4)
    with pytest.raises(ValueError, match="of a fit of 4 epochs, for one of 2"):
        train(plain, data_for, [kf.BackupAndRestore(tmp_path)], epochs=2)


@pytest.mark.slow
def test_another_compiled_rate_is_said_to_be_the_backups(plain, data_for, tmp_path, capsys):
    def fit(rate, crash):
        backup = kf.BackupAndRestore(tmp_path)
        optimizer = keras.optimizers.Adam(rate)
        return train(plain, data_for, [backup, Crash(crash)], optimizer=optimizer)

    with pytest.raises(KeyboardInterrupt):
        fit(1e-3, 2)
    assert "learning rate" not in capsys.readouterr().out
    model, _ = fit(1e-5, None)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    said = "the learning rate is 1.0e-03, from the backup, not 1.0e-05 as compiled."
    assert said in capsys.readouterr().out


class Watching(Holding):
    def on_train_begin(self, logs=None):
        self.variables = list(self.model.trainable_variables)


def test_a_container_of_variables_is_named(plain, data_for, tmp_path):
    with pytest.warns(UserWarning, match="can't keep 'variables' of Watching"):
        train(plain, data_for, [Watching(), kf.BackupAndRestore(tmp_path)], epochs=2)


@pytest.mark.slow
def test_generators_and_metrics_of_keras_in_a_callback_continue(plain, data_for, tmp_path):
    class Drawing(Holding):
        def on_epoch_end(self, epoch, logs=None):
            self.drawn.append(float(keras.random.normal((), seed=self.seed)))
            self.mean.update_state(float(epoch))

    made = []

    def callbacks():
        seed, mean = keras.random.SeedGenerator(5), keras.metrics.Mean()
        made.append(Drawing(seed=seed, mean=mean, drawn=[]))
        return made[-1:]

    interrupted(plain, data_for, tmp_path, callbacks)
    seed = keras.random.SeedGenerator(5)
    assert made[-1].drawn == [float(keras.random.normal((), seed=seed)) for _ in range(EPOCHS)]
    assert float(made[-1].mean.result()) == np.mean(range(EPOCHS))


def loss_1(y, p):
    return keras.losses.sparse_categorical_crossentropy(y, p)


def loss_2(y, p):
    return 2.0 * loss_1(y, p)


def test_losses_whose_names_are_numbered_differ(plain, data_for, tmp_path):
    first, then = compiled_with(plain, loss=loss_1), compiled_with(plain, loss=loss_2)
    with pytest.raises(ValueError, match="made with another loss"):
        fit_twice(first, data_for, tmp_path, again=then)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.slow
def test_a_lambda_that_stands_elsewhere_is_the_same(plain, data_for, tmp_path):
    first = compiled_with(plain, loss=lambda y, p: loss_1(y, p))
    then = compiled_with(plain, loss=lambda y, p: loss_1(y, p))
    fit_twice(first, data_for, tmp_path, again=then)
