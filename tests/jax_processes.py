"""One of several JAX processes that train a model together, for tests.

`jax_processes.py RANK PORT DISTRIBUTION TASK FOLDER` writes what came out to
`FOLDER/TASK-RANK.npz`.
"""

import os
import sys
import time
from pathlib import Path

RANK, PORT, KIND, TASK, FOLDER = int(sys.argv[1]), *sys.argv[2:5], Path(sys.argv[5])
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{PORT}", 2, RANK)

import keras
import numpy as np
import tensorflow as tf

import keras_freeze as kf
from keras_freeze.schedules import AfterSteps, FreezeSchedule, OnPlateau, Phase, Warmup

EPOCHS, ROWS, BATCH = 6, 32, 8
GROUPS = ["low", "middle"]


def distribution():
    if KIND == "DataParallel":
        return keras.distribution.DataParallel()
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], jax.devices())
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["(low|middle).*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def build(optimizer):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    layers = [dense(8, "tanh", name="low"), dense(8, "tanh", name="middle"), dense(3, name="head")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 6)).astype("float32"), rng.integers(0, 3, ROWS)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat()


def fit(model, *callbacks, epochs=EPOCHS):
    steps = ROWS // BATCH
    settings = {"steps_per_epoch": steps, "validation_steps": steps, "validation_data": data()}
    return model.fit(data(), epochs=epochs, verbose=0, callbacks=list(callbacks), **settings)


def by_hand():
    """The phases of `by_schedule` in plain Keras; SGD has no state that a new one would lack."""
    model = build("sgd")
    for frozen in (["low", "middle"], ["low"], []):
        for name in ("low", "middle", "head"):
            model.get_layer(name).trainable = name not in frozen
        model.compile("sgd", model.loss, metrics=["accuracy"])
        fit(model, epochs=2)
    return model, {}


def by_schedule():
    model = build("sgd")
    plan = kf.FreezeScheduler({0: ["low", "middle"], 2: ["low"], 4: None}, backbone=GROUPS)
    return model, fit(model, plan).history


def schedule():
    phases = [
        Phase(2, until=AfterSteps(6), curve=Warmup(3)),
        Phase(1, until=OnPlateau("val_loss", patience=1, min_delta=9.0), restore_best=True),
        Phase(0),
    ]
    return kf.FreezeScheduler(
        FreezeSchedule(phases), backbone=GROUPS, rates={"low": 0.1}, verbose=0
    )


def whole():
    model = build("adam")
    return model, fit(model, schedule()).history


class Slow(keras.callbacks.Callback):
    """Takes time over each batch, and says when the fourth epoch has begun."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            (FOLDER / f"begun-{RANK}").touch()

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.3)


def resumable():
    model = build("adam")
    callbacks = [kf.BackupAndRestore(FOLDER / "backup"), schedule()]
    callbacks += [Slow()] if not (FOLDER / "begun-0").exists() else []
    return model, fit(model, *callbacks).history


def settling():
    model = build("adam")
    callback = kf.AutoFreeze(intervals=3, backbone=GROUPS, log_details=["gradients"])
    return model, fit(model, callback, kf.LiveView("lines")).history


def race():
    model = build("adam")
    return model, fit(model, kf.GradualUnfreeze("auto", backbone=GROUPS)).history


def main():
    keras.distribution.set_distribution(distribution())
    model, history = globals()[TASK]()
    weights = {f"weight/{n}": v for n, v in enumerate(model.get_weights())}
    logs = {f"log/{name}": np.asarray(values) for name, values in history.items()}
    np.savez(FOLDER / f"{TASK}-{RANK}.npz", **weights, **logs)


if __name__ == "__main__":
    main()
