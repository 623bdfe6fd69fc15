"""Iterators are released on another thread, and not kept after a fit."""

import gc
import threading
import weakref

import keras
import pytest

import keras_freeze as kf
from keras_freeze.prefix_cache.iterators import Iterators


class _Iterator:
    """An iterator that tells on which thread it was deleted."""

    def __init__(self, threads):
        self.gone = threading.Event()
        weakref.finalize(self, self._tell, threads, self.gone)

    @staticmethod
    def _tell(threads, gone):
        threads.append(threading.current_thread())
        gone.set()


def test_the_previous_one_is_released_on_another_thread():
    iterators, threads = Iterators(), []
    first, second = _Iterator(threads), _Iterator(threads)
    gone = first.gone
    iterators.hold("train", first)
    iterators.hold("train", first)
    iterators.hold("test", second)
    del first
    assert threads == []
    iterators.hold("train", _Iterator(threads))
    assert gone.wait(10)
    assert threads[0] is not threading.current_thread()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data's iterators")
def test_a_fit_waits_for_no_iterator_but_the_last(batch_norm, data_for, monkeypatch):
    threads, iterators = {}, []
    own = Iterators.hold

    def hold(self, kind, iterator):
        name = f"{kind} {len(iterators)}"
        if self._held.get(kind) is not iterator:  # without taking hold of earlier ones here
            iterators.append(weakref.ref(iterator))
            weakref.finalize(
                iterator, lambda: threads.setdefault(name, threading.current_thread().name)
            )
        own(self, kind, iterator)

    monkeypatch.setattr(Iterators, "hold", hold)
    model = batch_norm()
    x, y = data_for(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    kf.freeze(model, groups=1)
    cache = kf.PrefixCache(auto=False, verbose=0)
    model.fit(x, y, epochs=3, verbose=0, validation_data=(x, y), callbacks=[cache])
    for thread in threading.enumerate():
        if thread.name == "iterators":
            thread.join(10)
    gc.collect()
    assert len(iterators) == len(threads) == 6  # none is kept
    before_the_last = ["train 0", "test 1", "train 2", "test 3"]
    assert [threads[name] for name in before_the_last] == ["iterators"] * 4
