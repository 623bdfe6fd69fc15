"""Augmented samples are kept in several views, which training gets in turn."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images
from keras import layers

import keras_freeze as kf
from keras_freeze.features import bytes_on_disk
from keras_freeze.features.store import RowStore
from keras_freeze.prefix_cache.views import Visits

pytestmark = [pytest.mark.backend, pytest.mark.slow_on_jax]


class TestVisits:
    def test_each_pass_is_in_an_order_of_its_own(self):
        visits = Visits(8)
        passes = [[visits.next([b"one"])[0][1] for _ in range(8)] for _ in range(20)]
        assert passes[0] == list(range(8))
        assert all(sorted(one) == list(range(8)) for one in passes)
        assert len({tuple(one) for one in passes}) == 20

    def test_samples_are_not_in_step(self):
        visits = Visits(8)
        keys = [bytes([n]) for n in range(50)]
        for _ in range(8):
            visits.next(keys)
        assert len({view for _, view in visits.next(keys)}) > 4

    def test_what_was_seen(self):
        visits = Visits(2)
        assert visits.known([b"a", b"b"]) == 0
        visits.next([b"a"])
        assert visits.known([b"a", b"b"]) == 1
        visits.clear()
        assert visits.known([b"a"]) == 0


def augmented(*random_layers, is_nested=False, is_backbone_nested=False):
    """A frozen convolution behind random layers, and a head."""

    def build():
        inputs = x = keras.Input((8, 8, 2))
        if is_nested:
            x = keras.Sequential([make() for make in random_layers], name="augmentation")(x)
        else:
            for make in random_layers:
                x = make()(x)
        x = layers.Rescaling(0.5)(x)
        if is_backbone_nested:
            inner = keras.Input((8, 8, 2))
            deep = layers.Conv2D(4, 3, activation="relu", name="conv")(inner)
            x = keras.Model(inner, layers.Conv2D(4, 3, name="second")(deep), name="backbone")(x)
        else:
            x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["conv"])


def still():
    """A random layer that changes nothing."""
    return layers.RandomTranslation(0.0, 0.0, seed=1)


@pytest.mark.at_commit("True-True")
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("is_backbone_nested", [False, True])
def test_views_that_are_all_alike_train_as_without(is_nested, is_backbone_nested):
    build = augmented(still, is_nested=is_nested, is_backbone_nested=is_backbone_nested)
    cache = kf.PrefixCache(auto=False, views=2, verbose=0)
    statistics = cached.compare(build, images(), cache=cache, validate=True, epochs=5, exact=False)
    # Two epochs are computed, three are looked up; of validation one and four.
    assert (statistics.misses, statistics.hits) == (20 * (2 + 1), 20 * (3 + 4))


def kept_rows(monkeypatch):
    """Record what is kept, by sample and view."""
    put, kept = RowStore.put, {}

    def recorded(self, keys, arrays):
        put(self, keys, arrays)
        for n, key in enumerate(keys):
            kept[key] = arrays[0][n].copy()

    monkeypatch.setattr(RowStore, "put", recorded)
    return kept


def flip():
    return layers.RandomFlip("horizontal", seed=1)


def fit(build, data, cache, epochs=6, **settings):
    keras.utils.set_random_seed(7)
    model = build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    settings = {"batch_size": 5, **settings}
    model.fit(*data, epochs=epochs, verbose=0, callbacks=[cache], **settings)
    return model


def test_what_is_kept_are_features_of_augmented_samples(monkeypatch):
    kept = kept_rows(monkeypatch)
    data = images()
    model = fit(augmented(flip), data, kf.PrefixCache(auto=False, views=4, verbose=0))
    assert len(kept) == 20 * 4
    conv = model.get_layer("conv")
    sides = [conv(0.5 * x) for x in (data[0], np.flip(data[0], axis=2).copy())]
    pooled = [keras.ops.mean(side, axis=(1, 2)) for side in sides]
    plain, flipped = map(keras.ops.convert_to_numpy, pooled)
    of_sample = {}
    for (key, _), row in kept.items():
        of_sample.setdefault(key, []).append(row)
    assert {len(rows) for rows in of_sample.values()} == {4}
    counts = np.zeros(2, int)
    for row in kept.values():
        is_near = [np.isclose(row, of, atol=1e-5).all(axis=1).any() for of in (plain, flipped)]
        assert any(is_near)
        counts += is_near
    assert counts.min() > 20  # of 80, each side about half


def test_views_of_a_sample_differ(monkeypatch):
    kept = kept_rows(monkeypatch)
    turn = augmented(lambda: layers.RandomRotation(0.4, seed=1))
    fit(turn, images(), kf.PrefixCache(auto=False, views=3, verbose=0), epochs=3)
    of_sample = {}
    for (key, view), row in kept.items():
        of_sample.setdefault(key, {})[view] = row
    assert {len(views) for views in of_sample.values()} == {3}
    for views in of_sample.values():
        assert not np.allclose(views[0], views[1]) and not np.allclose(views[1], views[2])


def test_a_cut_that_moves_starts_over():
    build = augmented(still, is_backbone_nested=True)

    def unfreeze(model):
        kf.unfreeze(model, layers=["conv"])
        kf.freeze(model, layers=["conv", "second"])

    cache = kf.PrefixCache(auto=False, views=2, verbose=0)
    at = cached.At(unfreeze, epoch=4)
    statistics = cached.compare(build, images(), lambda: at, cache=cache, epochs=8, exact=False)
    assert (statistics.misses, statistics.hits) == (20 * 4, 20 * 4)


def test_as_many_views_as_there_is_room_for(capsys):
    row = 4 * 4  # four channels of float32
    cache = kf.PrefixCache(max_bytes=45 * row, auto=False, views=8)
    fit(augmented(flip), images(), cache)
    assert "up to 20 samples in 2 views each at global" in capsys.readouterr().out
    assert (cache.statistics.misses, cache.statistics.hits) == (40, 80)


def test_a_wrong_view_is_found_by_an_audit(monkeypatch):
    get = RowStore.get

    def other(self, keys):
        rows = get(self, keys)
        return rows and [row * 1.5 for row in rows]

    monkeypatch.setattr(RowStore, "get", other)
    cache = kf.PrefixCache(auto=False, views=2, verbose=0)
    with pytest.warns(UserWarning, match="for a sample differs from an earlier one"):
        fit(augmented(flip), images(), cache)
    assert cache.statistics.hits == 0


def test_what_never_repeats_is_given_up(capsys):
    class New(keras.utils.PyDataset):
        epoch = 0

        def __len__(self):
            return 4

        def __getitem__(self, index):
            rng = np.random.default_rng([self.epoch, index])
            return rng.normal(size=(5, 8, 8, 2)).astype("float32"), np.zeros(5, "int32")

        def on_epoch_end(self):
            self.epoch += 1

    model = augmented(flip)()
    model.compile("sgd", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, views=2)
    model.fit(New(), epochs=4, verbose=0, shuffle=False, callbacks=[cache])
    assert "PrefixCache(views=8)" in capsys.readouterr().out
    assert cache.statistics.hits == 0


def test_without_views_augmented_training_is_left_whole(capsys):
    cache = kf.PrefixCache(auto=False)
    statistics = cached.compare(augmented(flip), images(), cache=cache, validate=True)
    assert "PrefixCache(views=8) keeps several views" in capsys.readouterr().out
    assert statistics.hits == 40  # validation


def test_augmentation_behind_weights_is_not_kept(capsys):
    def build():
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(4, 3, name="conv")(inputs)
        x = layers.Conv2D(4, 3, name="second")(layers.RandomFlip(seed=1)(x))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(auto=False, views=2)
    statistics = cached.compare(frozen(build, layers=["conv", "second"]), images(), cache=cache)
    assert "It ends there because augmentation is not between" in capsys.readouterr().out
    assert statistics.hits == 40


@pytest.mark.parametrize(("views", "error"), [(0, ValueError), (1.5, TypeError)])
def test_invalid_views(views, error):
    with pytest.raises(error, match=r"PrefixCache\(views=...\) must be"):
        kf.PrefixCache(views=views)


@pytest.mark.parametrize(
    "make", [flip, lambda: layers.RandomHue(0.9, seed=1), lambda: layers.RandomSaturation(0.9)]
)
@pytest.mark.at_commit("flip")
def test_validation_is_not_augmented(make):
    def build():
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, name="conv")(make()(inputs))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    x, y = images(channels=3)
    x = 255.0 * (x - x.min()) / (x.max() - x.min())
    model = frozen(build, layers=["conv"])()
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, views=2, verbose=0)
    settings = {"epochs": 4, "verbose": 0, "validation_data": (x, y)}
    history = model.fit(x, y, callbacks=[cache], **settings).history
    np.testing.assert_allclose(history["val_loss"], model.evaluate(x, y, verbose=0), rtol=1e-4)
    assert cache.statistics.hits >= 40


def test_a_transition_that_leaves_the_cut_where_it_is():
    def build():
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(4, 3, name="conv")(flip()(inputs))
        x = layers.Conv2D(4, 3, name="second")(layers.Dropout(0.5, seed=1)(x))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    batches = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(1))
    unfreeze = cached.At(lambda model: kf.unfreeze(model, layers=["second"]), epoch=4)
    model = frozen(build, layers=["conv", "second"])()
    model.compile("sgd", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, views=2, verbose=0)
    callbacks = [unfreeze, cache, count]
    model.fit(*images(), epochs=8, batch_size=5, verbose=0, callbacks=callbacks)
    assert len(batches) == 8 * 4
    assert (cache.statistics.misses, cache.statistics.hits) == (4 * 20, 4 * 20)


def test_views_in_files_are_as_many_as_asked_for(tmp_path):
    cache = kf.PrefixCache(0, tmp_path, auto=False, views=3, verbose=0)
    fit(augmented(flip), images(), cache)
    assert (cache.statistics.misses, cache.statistics.hits) == (60, 60)


def test_a_phase_of_no_more_epochs_than_views_is_left_whole():
    from keras_freeze.prefix_cache import planning

    model = augmented(flip)()
    options = {"inference": False, "auto": True, "custom_step": False, "steps": 4, "views": 3}
    for left, reason in ((3, "SHORT_FOR_VIEWS"), (4, "LITTLE_WORK")):
        found = planning.search(model, planning.Options(epochs_left=lambda n=left: n, **options))
        assert found.reason.name == reason


def test_views_are_of_training_mode():
    with pytest.raises(ValueError, match="must be None with mode"):
        kf.PrefixCache(views=2, mode="inference")


@pytest.mark.parametrize("argument", ["custom_step", "auto", "directory"])
def test_other_types_are_refused(argument):
    with pytest.raises(TypeError, match=rf"PrefixCache\({argument}=...\) must be"):
        kf.PrefixCache(**{argument: 5})


def test_views_of_a_model_without_random_layers_are_said_to_change_nothing(capsys):
    fit(augmented(), images(), kf.PrefixCache(auto=False, views=2))
    assert "views= changes nothing" in capsys.readouterr().out


@pytest.mark.skipif(cached.BACKEND == "jax", reason="a step that draws nothing moves no generator")
def test_a_first_batch_is_augmented_once():
    """So random generators end as without a cache, where all views are new."""
    states = []
    for cache in ([], [kf.PrefixCache(auto=False, views=2, verbose=0)]):
        keras.utils.set_random_seed(3)
        model = augmented(flip)()
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(*images(), batch_size=8, epochs=2, verbose=0, callbacks=cache)
        states.append([keras.ops.convert_to_numpy(v) for v in model.variables])
    for got, wanted in zip(*states, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_views_in_a_folder_are_as_many_as_its_pages_hold(tmp_path, capsys):
    x, y = images()
    sample, header = 4 * 4, 64  # bytes, behind the pooling
    limit = int(2.5 * len(x) * bytes_on_disk(sample + header))
    cache = kf.PrefixCache(auto=False, views=4, keep=True, directory=tmp_path, max_bytes=limit)
    fit(augmented(flip), (x, y), cache)
    said = int(capsys.readouterr().out.partition(" view")[0].split()[-1])
    held = sum(shelf.samples for shelf in kf.PrefixCache.contents(tmp_path).shelves)
    assert (said, held) == (2, 2 * len(x))


def test_phases_that_are_too_short_for_views_say_so(capsys):
    cache = kf.PrefixCache(auto=True, views=5)
    fit(augmented(flip), images(), cache, epochs=5)
    assert "the first 5 views of a sample are new" in capsys.readouterr().out
