"""State that no Keras variable holds: found, warned of, watched, kept and restored."""

import keras
import numpy as np
import pytest
from small_searches import FIT, X, Y, project

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.model_picture import hidden_states, set_hidden_state
from keras_freeze.schedules import FreezeSchedule, Phase

pytestmark = pytest.mark.backend


class Counted(keras.layers.Dense):
    """Counts in an array that it saves and loads by itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = np.zeros(3)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["seen"] = self.seen

    def load_own_variables(self, store):
        self.seen = np.array(store["seen"])
        super().load_own_variables({name: store[name] for name in store if name != "seen"})


class Count(keras.callbacks.Callback):
    """Counts the epochs in the layer, as a layer does that changes while it trains."""

    def __deepcopy__(self, memo):
        return type(self)()

    def on_epoch_end(self, epoch, logs=None):
        self.model.get_layer("counted").seen += 1.0


def build():
    keras.utils.set_random_seed(0)
    layers = [Counted(3, name="counted"), keras.layers.Dense(3, "softmax", name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=keras.backend.backend() != "jax")
    return model


def fit(model, *callbacks, **settings):
    settings = {"epochs": 3, "verbose": 0, "shuffle": False, **settings}
    return model.fit(X, Y, callbacks=list(callbacks), **settings)


def test_it_is_found_beside_variables_of_the_same_values():
    model = build()
    (found,) = hidden_states(model)
    assert found.layer is model.get_layer("counted")
    assert len(found.names) == 1  # the bias is zero too
    found.layer.seen += 1.0
    (found,) = hidden_states(model)
    assert found.names == ("seen",)
    found.layer.seen += 5.0
    kernel = np.array(found.layer.kernel)
    set_hidden_state(found.layer, found.saved)
    np.testing.assert_array_equal(found.layer.seen, np.ones(3))
    np.testing.assert_array_equal(np.array(found.layer.kernel), kernel)


def test_keras_s_own_layers_have_none(any_model):
    assert list(hidden_states(any_model())) == []


def test_freezing_says_that_it_is_not_frozen():
    said = r"freeze: counted \(Counted\) is frozen, but not what it holds beside its variables"
    with pytest.warns(UserWarning, match=said):
        kf.freeze(build(), layers=["counted"])
    with pytest.warns(UserWarning, match=r"GradualUnfreeze: counted .* is frozen, but not"):
        fit(build(), kf.GradualUnfreeze(backbone="counted", verbose=0))
    kf.freeze(build(), layers=["head"])
    kf.freeze(build(), layers=["counted"], weights="bias")


@pytest.mark.filterwarnings("ignore:.*is frozen, but not what it holds")
def test_the_guard_sees_it_where_it_is_frozen():
    model = build()
    fit(model, Count(), kf.FreezeGuard())
    kf.freeze(model, layers=["counted"])
    message = r"what counted \(Counted\) holds beside its variables moved in epoch 1.*: seen"
    with pytest.raises(RuntimeError, match=message):
        fit(model, kf.FreezeGuard(), Count())
    fit(model, kf.FreezeGuard())


@pytest.mark.filterwarnings("ignore:.*is frozen, but not what it holds")
def test_the_best_epoch_has_its_own():
    falling = iter([3.0, 1.0, 2.0, 4.0])

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score_loss"] = next(falling)

    phase = Phase("counted", restore_best="score_loss")
    schedule = kf.FreezeScheduler(FreezeSchedule([phase]), backbone="counted", verbose=0)
    model = build()
    fit(model, Score(), Count(), schedule, epochs=4)
    np.testing.assert_array_equal(model.get_layer("counted").seen, np.full(3, 2.0))


def test_a_backup_has_it(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build(), Count(), kf.BackupAndRestore(tmp_path), Interrupt())
    model = build()
    fit(model, Count(), kf.BackupAndRestore(tmp_path))
    np.testing.assert_array_equal(model.get_layer("counted").seen, np.full(3, 3.0))


def test_the_best_model_of_a_search_has_it(tmp_path):
    tuner = tuning.RandomSearch(lambda hp: build(), "val_loss", max_trials=1, **project(tmp_path))
    tuner.search(X, Y, callbacks=[Count()], **FIT)
    (model,) = tuner.get_best_models()
    best = tuner.rows()[0]["best_epoch"]
    np.testing.assert_array_equal(model.get_layer("counted").seen, np.full(3, best + 1.0))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="modules of torch")
class TestTorchModule:
    def build(self):
        import torch

        keras.utils.set_random_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        wrapped = keras.layers.TorchModuleWrapper(module, name="backbone")
        model = keras.Sequential([keras.Input((4,)), wrapped, keras.layers.Dense(3, "softmax")])
        model(X[:2])
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def test_its_buffers_are_found_watched_and_kept(self, tmp_path):
        model = self.build()
        (found,) = hidden_states(model)
        assert found.names == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
        with pytest.warns(UserWarning, match=r"1\.running_mean, 1\.running_var and 1\.num"):
            kf.freeze(model, layers=["backbone"])
        with pytest.raises(RuntimeError, match=r"backbone .* moved in epoch 1.*1\.running_mean"):
            fit(model, kf.FreezeGuard(), epochs=1)

    def test_a_training_that_is_interrupted_ends_like_another(self, tmp_path):
        class Interrupt(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise KeyboardInterrupt

        def buffers(model):
            return {k: v.tolist() for k, v in model.layers[0].module.named_buffers()}

        whole = self.build()
        fit(whole)
        with pytest.raises(KeyboardInterrupt):
            fit(self.build(), kf.BackupAndRestore(tmp_path), Interrupt())
        resumed = self.build()
        fit(resumed, kf.BackupAndRestore(tmp_path))
        assert buffers(resumed) == buffers(whole)
