"""Where a callback stands among the others of a fit, and when they are released."""

import gc

import keras
import numpy as np
import pytest
from pretrained_models import build_backbone

from keras_freeze.keras_internals.callback_list import move_before_progress_bar, when_released


class BeforeBar(keras.callbacks.Callback):
    def set_model(self, model):
        super().set_model(model)
        move_before_progress_bar(self)


PARAMS = {"epochs": 1, "steps": 2, "verbose": 1}


class Ranked(keras.callbacks.Callback):
    rank_at_end = 2


@pytest.mark.parametrize("n", range(4))
def test_a_callback_stands_before_the_bar_and_behind_the_others(n):
    first, second, ranked, mover = (
        keras.callbacks.LambdaCallback(),
        keras.callbacks.LambdaCallback(),
        Ranked(),
        BeforeBar(),
    )
    given = [first, second, ranked]
    given.insert(n, mover)
    callbacks = keras.callbacks.CallbackList(
        given, add_history=True, add_progbar=True, model=build_backbone(), **PARAMS
    )
    history, bar = callbacks.callbacks[-2:]
    assert callbacks.callbacks == [first, second, mover, ranked, history, bar]


def test_alone_it_stands_before_the_bar():
    mover = BeforeBar()
    callbacks = keras.callbacks.CallbackList(
        [mover], add_progbar=True, model=build_backbone(), **PARAMS
    )
    assert callbacks.callbacks[0] is mover


def test_no_list_nothing_to_move():
    mover = BeforeBar()
    move_before_progress_bar(mover)
    assert when_released(lambda: None) is None


class Watched(keras.callbacks.Callback):
    def __init__(self, released):
        super().__init__()
        self.released = released

    def on_train_begin(self, logs=None):
        when_released(lambda: self.released.append(True))

    def on_epoch_end(self, epoch, logs=None):
        raise ZeroDivisionError


def test_an_error_releases_the_list():
    released = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ZeroDivisionError):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[Watched(released)])
    gc.collect()
    assert released == [True]
