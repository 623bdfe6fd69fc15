"""Models that TensorFlow spreads over several processes, which Keras 3 can't train."""

import json
import os
import socket
import subprocess
import sys

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute"),
]

SCRIPT = """
import json, os, sys
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras, numpy as np
import keras_freeze as kf

with strategy.scope():
    low, head = keras.layers.Dense(3, name="low"), keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((4,)), low, head])
    model.compile("sgd", "mse")

def said(function, *arguments, **settings):
    try:
        function(*arguments, **settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""

callback = kf.GradualUnfreeze(backbone="low", verbose=0)
x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
fit = {"batch_size": 4, "epochs": 2, "verbose": 0}
found = {
    "schedule": said(callback.preview, model, epochs=2),
    "plain": said(model.fit, x, y, **fit),
    "fit": said(model.fit, x, y, callbacks=[callback], **fit),
}
print("found", json.dumps(found), flush=True)
os._exit(0)  # the other worker may wait for ever
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_on(count):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    processes = []
    for index in range(count):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [json.loads(output.partition("found ")[2]) for output in outputs]


def test_a_schedule_refuses_what_plain_keras_fails_at():
    for found in run_on(2):
        assert "must not be spread over several workers" in found["schedule"]
        # It fails before it calls a callback. Where it no longer does, the refusal can go.
        assert "PerReplica" in found["plain"]
        assert found["fit"] == found["plain"]


def test_a_single_worker_trains():
    assert run_on(1) == [{"schedule": "", "plain": "", "fit": ""}]
