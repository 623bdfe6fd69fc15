"""A training that can be killed and run again: `python resumable.py CASE FOLDER [EVENT N]`.

It backs up to FOLDER/backup, appends the logs of each epoch to FOLDER/logs.jsonl and, at its
end, writes all that training has made to FOLDER/result.npz. With EVENT and N it kills itself,
by SIGKILL, when that event happens for the Nth time.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import graphs
import keras
import numpy as np

import keras_freeze as kf
from keras_freeze import schedules
from keras_freeze.backup import archive, backup_and_restore
from keras_freeze.engine import optimizer_state, transitions
from keras_freeze.keras_internals import optimizers
from keras_freeze.schedules import AfterSteps, OnPlateau, Phase, Warmup

EPOCHS, ROWS, BATCH = 7, 24, 4
_O = keras.optimizers
_BACKBONE = ["low", "middle"]
_PROBE = np.random.default_rng(3).normal(size=(20, 6)).astype("float32")


def build_dense():
    """Dropout at random, so that the generators' states matter."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="low"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(8, activation="relu", name="middle"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def build_normalised():
    """BatchNorm inside a nested backbone."""
    layers = keras.layers
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="block1_dense")(inputs)
    x = layers.BatchNormalization(name="block1_bn")(x)
    x = layers.Dense(8, name="block2_dense")(layers.ReLU(name="block1_relu")(x))
    x = layers.BatchNormalization(name="block2_bn")(x)
    backbone = keras.Model(inputs, layers.ReLU(name="block2_relu")(x), name="backbone")
    outer = keras.Input((6,))
    outputs = layers.Dense(3, activation="softmax", name="head")(backbone(outer))
    return keras.Model(outer, outputs)


def mixed_plan():
    """Freeze and unfreeze, in the middle of epochs, biases before kernels, with curves."""
    return schedules.FreezeSchedule(
        [
            Phase(None, until=1),
            Phase(1, until=AfterSteps(8), batch_norm="follow", curve=Warmup(5), rates=2.0),
            Phase(1, weights="kernel", until=1, batch_norm="statistics"),
            Phase(None, until=AfterSteps(3) | 2, batch_norm="follow"),
            Phase(2, batch_norm="train", curve=schedules.SlantedTriangular(9)),
        ]
    )


def best_plan():
    """Unfreeze when the loss stalls, each time from the best epoch."""
    trigger = OnPlateau("val_loss", patience=1, min_delta=0.02) | 3
    return schedules.gradual(["low", "middle", "head"], trigger, restore_best=True)


#: By name: the model, the optimizer, and the callbacks beside the backup.
CASES = {
    "even": (
        build_dense,
        lambda: _O.Adam(0.01),
        lambda: [
            keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.1),
            kf.GradualUnfreeze(verbose=0),
            keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True),
        ],
    ),
    "mixed": (
        build_normalised,
        lambda: _O.AdamW(_O.schedules.CosineDecay(0.02, 60), weight_decay=0.01),
        lambda: [kf.FreezeScheduler(mixed_plan(), verbose=0)],
    ),
    "best": (
        build_dense,
        lambda: _O.Nadam(0.05),
        lambda: [kf.FreezeScheduler(best_plan(), rates=2.6, verbose=0)],
    ),
    "race": (
        build_dense,
        lambda: _O.Adam(0.02),
        lambda: [kf.GradualUnfreeze(schedules.Auto(budget=0.75), verbose=0, backbone=_BACKBONE)],
    ),
    "sequence": (
        build_dense,
        lambda: _O.Adam(0.05),
        lambda: [
            kf.GradualUnfreeze(
                schedules.Auto("sequence", stall=1), verbose=0, backbone=_BACKBONE, cache=False
            )
        ],
    ),
    "settling": (
        build_dense,
        lambda: _O.Adam(0.02),
        lambda: [kf.AutoFreeze(intervals=9, verbose=0, backbone=_BACKBONE, cache=False)],
    ),
    "outputs": (
        build_dense,
        lambda: _O.Adam(0.02),
        lambda: [
            kf.AutoFreeze(
                intervals=6,
                percentile=100,
                criterion="cka",
                probe=_PROBE,
                tolerance=0.001,
                verbose=0,
                backbone=_BACKBONE,
                cache=False,
            )
        ],
    ),
    "progressive": (
        build_dense,
        lambda: _O.AdamW(0.02, weight_decay=0.1),
        lambda: [kf.ProgressiveFreeze(verbose=0, backbone=_BACKBONE)],
    ),
    "top gradient": (
        build_dense,
        lambda: _O.Adam(0.02),
        lambda: [
            kf.FreezeScheduler(
                schedules.FreezeSchedule(
                    [
                        Phase(["low", "middle"], until=2),
                        Phase(schedules.TopGradient(1, _PROBE, np.arange(20) % 3), until=2),
                        Phase(schedules.TopGradient(1, _PROBE, np.arange(20) % 2)),
                    ]
                ),
                verbose=0,
                backbone=_BACKBONE,
            )
        ],
    ),
    "auto rates": (
        build_dense,
        lambda: _O.AdamW(0.02, weight_decay=0.1),
        lambda: [kf.GradualUnfreeze(3, rates="auto", verbose=0, backbone=_BACKBONE)],
    ),
    "accumulated": (
        build_normalised,
        lambda: _O.SGD(0.1, momentum=0.9, gradient_accumulation_steps=4, use_ema=True),
        lambda: [
            kf.FreezeScheduler({0: 2, 2: 1, 4: None, 5: "block2"}, batch_norm="follow", verbose=0)
        ],
    ),
    "scaled": (
        build_dense,
        lambda: _O.LossScaleOptimizer(_O.RMSprop(0.01, momentum=0.9), dynamic_growth_steps=5),
        lambda: [kf.GradualUnfreeze(2, rates=3.0, verbose=0)],
    ),
}


class EpochLogs(keras.callbacks.Callback):
    """Appends the logs of each epoch to a file, and feeds data that depend on the epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)
        self.seen = 0  # plain data, which the backup has to restore

    def on_epoch_end(self, epoch, logs=None):
        self.seen += epoch
        line = {"epoch": epoch, "seen": self.seen, **{k: float(v).hex() for k, v in logs.items()}}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


class Epoch(keras.callbacks.Callback):
    """Tells the data which epoch it is."""

    def on_epoch_begin(self, epoch, logs=None):
        EpochData.epoch = epoch


class EpochData:
    """Rows in an order that depends on the number of the epoch alone."""

    epoch = 0

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __call__(self):
        order = np.random.default_rng(self.epoch).permutation(len(self.x))
        for start in range(0, len(self.x), BATCH):
            rows = order[start : start + BATCH]
            yield self.x[rows], self.y[rows]


def data(by_epoch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    y = (np.abs(x).argmax(axis=1) % 3).astype("int32")
    if not by_epoch:
        return {"x": x, "y": y, "batch_size": BATCH, "shuffle": False}, (x[:8], y[:8])
    import tensorflow as tf

    signature = (tf.TensorSpec((None, 6), "float32"), tf.TensorSpec((None,), "int32"))
    dataset = tf.data.Dataset.from_generator(EpochData(x, y), output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(ROWS // BATCH))
    return {"x": dataset, "shuffle": False}, (x[:8], y[:8])


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(event, number):
    """Kill this process when an event happens for the Nth time."""
    counts = {"left": number}

    def passes():
        counts["left"] -= 1
        if counts["left"] == 0:
            kill()

    def before(module, name):
        function = getattr(module, name)

        def wrapped(*args, **kwargs):
            passes()
            return function(*args, **kwargs)

        setattr(module, name, wrapped)

    def after(module, name):
        function = getattr(module, name)

        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            passes()
            return result

        setattr(module, name, wrapped)

    if event == "write":  # in the middle of a backup's file
        save = np.save

        def torn(file, array, **kwargs):
            passes()
            save(file, array, **kwargs)

        archive.np = type("numpy", (), {**vars(np), "save": staticmethod(torn)})
    elif event == "rename":
        before(archive.os, "replace")
    elif event == "renamed":
        after(archive.os, "replace")
    elif event == "transition":  # slots are gone, new ones not yet there
        after(optimizers, "forget_slots")
    elif event == "flags":  # set, with the optimizer still as it was
        after(transitions, "_set_flags")
    elif event == "restored":  # a restart that is killed as soon as it has read its backup
        after(backup_and_restore, "read")
    elif event == "batch":
        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: passes())
    elif event == "epoch":
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: passes())
    elif event == "begin":
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: passes())
    return None


EVENTS = (
    "write",
    "rename",
    "renamed",
    "transition",
    "flags",
    "restored",
    "batch",
    "epoch",
    "begin",
)


def run(case, folder, event=None, number=0):
    build, make_optimizer, make_callbacks = CASES[case]
    keras.utils.set_random_seed(1)
    model = build()
    loss = "sparse_categorical_crossentropy"
    model.compile(make_optimizer(), loss, metrics=["accuracy"])
    arguments, validation = data(by_epoch=case == "mixed")
    logs = EpochLogs(folder / "logs.jsonl")
    callbacks = [Epoch(), kf.BackupAndRestore(folder / "backup"), *make_callbacks(), logs]
    armed = arm(event, number) if event else None
    callbacks += [armed] if armed else []
    print("ready", flush=True)
    history = model.fit(
        **arguments, validation_data=validation, epochs=EPOCHS, verbose=0, callbacks=callbacks
    )
    arrays = {f"weight{n}": optimizer_state.to_host(v) for n, v in enumerate(model.weights)}
    for n, variable in enumerate(model.optimizer.variables):
        arrays[f"optimizer{n}"] = optimizer_state.to_host(variable)
    trains = np.array([v.trainable for v in model.weights])
    told = {name: [float(v).hex() for v in values] for name, values in history.history.items()}
    told["epoch"] = history.epoch
    unfinished = folder / "unfinished.npz"
    np.savez(unfinished, trains=trains, history=json.dumps(told), seen=logs.seen, **arrays)
    os.replace(unfinished, folder / "result.npz")


if __name__ == "__main__":
    graphs.optimize_if_thorough()
    with contextlib.suppress(IndexError):
        sys.argv[4] = int(sys.argv[4])
    run(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
