"""The prefix cache changes no number, on any kind of model, data and schedule."""

import cached
import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.prefix_cache import compiled_prefix, feature_store, layer_rules
from keras_freeze.prefix_cache.feature_store import RowStore
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase

BACKEND = cached.BACKEND
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")


def frozen(build, depth=None, **where):
    """Return a factory of the model with a part of it frozen."""

    def make():
        model = build()
        kf.freeze(model, **({"groups": depth} if depth is not None else where))
        return model

    return make


def images(rows=20, size=8, channels=2, classes=3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, size, size, channels)).astype("float32")
    return x, rng.integers(0, classes, rows)


def vectors(rows=20):
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 4)).astype("float32"), rng.integers(0, 3, rows)


# Models


@pytest.mark.backend
def test_the_head_alone(any_model, data_for):
    model = any_model()
    statistics = cached.compare(
        frozen(any_model, len(kf.layer_groups(model)) - 1), data_for(model, rows=20), evaluate=True
    )
    # 20 rows, each computed once for training and once for validation; 3 epochs.
    assert (statistics.misses, statistics.hits) == (40, 80)


@pytest.mark.parametrize("rows", [20, 24], ids=["the last smaller", "batches of one size"])
def test_gradual_unfreezing(any_model, data_for, rows):
    model, data = any_model(), data_for(any_model(), rows=rows)
    epochs = 2 * len(kf.layer_groups(model))
    plain = cached.fit(
        any_model, data, kf.GradualUnfreeze(2, cache=False, verbose=0), epochs=epochs
    )
    cache = kf.PrefixCache(auto=False, verbose=0)
    schedule = kf.GradualUnfreeze(2, cache=cache, verbose=0)
    cached.assert_same(cached.fit(any_model, data, schedule, epochs=epochs), plain)
    assert cache.statistics.hits


@pytest.mark.parametrize("rows", [20, 24], ids=["the last smaller", "batches of one size"])
@pytest.mark.parametrize("before", ["conv_2", "scale", "hidden"])
def test_convolutions_below_a_normalisation(before, rows):
    # TensorFlow orders the normalisation's products by what it knows of the batch's size.
    def build():
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(32, 3, activation="relu", name="conv_1")(inputs)
        x = layers.Conv2D(64, 3, activation="relu", name="conv_2")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.LayerNormalization(name="scale")(x)
        x = layers.Dense(32, activation="relu", name="hidden")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))

    cached.compare(frozen(build, before=before), images(rows))


def test_a_nested_backbone_cut_in_its_middle(nested):
    def build():
        model = nested()
        kf.freeze(model, layers=["block1_conv"])
        return model

    cached.compare(build, images())


def test_a_nested_backbone_behind_frozen_layers():
    def build():
        inner_in = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, name="inner_1")(inner_in)
        inner = keras.Model(inner_in, layers.Conv2D(4, 3, name="inner_2")(x), name="inner")
        inputs = keras.Input((8, 8, 2))
        x = inner(layers.Conv2D(3, 1, name="stem")(inputs))
        outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
        return keras.Model(inputs, outputs)

    cached.compare(frozen(build, layers=["stem", "inner_1"]), images())


def skips():
    """A model of which the head reads the input, a frozen layer and a deeper one."""
    inputs = keras.Input((4,))
    scaled = layers.Rescaling(0.5)(inputs)
    low = layers.Dense(5, activation="relu", name="low")(scaled)
    middle = layers.Dense(5, activation="relu", name="middle")(low)
    x = layers.Concatenate()([layers.Add()([low, middle]), scaled, low * 2.0, inputs])
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


@pytest.mark.parametrize("names", [["low"], ["low", "middle"]])
def test_several_tensors_cross_the_cut(names):
    cached.compare(frozen(skips, layers=names), vectors())


def attention_encoder(rate=0.0):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, mask_zero=True, name="embedding")(inputs)
    for n in (1, 2):
        attended = layers.MultiHeadAttention(2, 4, dropout=rate, name=f"attention_{n}")(x, x)
        x = layers.LayerNormalization(name=f"norm_{n}")(x + attended)
        x = x + layers.Dense(8, activation="gelu", name=f"dense_{n}")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


def tokens(rows=20):
    rng = np.random.default_rng(3)
    return rng.integers(0, 11, (rows, 6)).astype("int32"), rng.integers(0, 3, rows)


@pytest.mark.parametrize("depth", ["embedding", "attention_1", "dense_2"])
def test_masks_cross_the_cut(depth):
    below = {
        "embedding": "embedding",
        "attention_1": "embedding|.*_1",
        "dense_2": "embedding|.*_[12]",
    }
    cached.compare(frozen(attention_encoder, matching=below[depth]), tokens())


def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True, name="embedding"),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
            layers.GRU(4, return_sequences=True, name="gru"),
            layers.TimeDistributed(layers.Dense(4), name="each"),
            layers.LSTM(4, name="lstm"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_stack_of_recurrent_layers(depth):
    cached.compare(frozen(lstm_stack, depth), tokens())


@pytest.mark.slow
@pytest.mark.parametrize("training", [None, False])
@pytest.mark.parametrize(("depth", "rows"), [("head", 24), ("middle", 24), ("middle", 20)])
@pytest.mark.parametrize("family", ["VGG16", "ResNet50", "EfficientNetB0"])
def test_families_of_applications(family, depth, rows, training):
    def build():
        backbone = getattr(keras.applications, family)(
            weights=None, include_top=False, input_shape=(48, 48, 3)
        )
        inputs = keras.Input((48, 48, 3))
        x = backbone(inputs) if training is None else backbone(inputs, training=training)
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
        x = layers.Dense(16, activation="relu")(layers.LayerNormalization()(x))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
        groups = len(kf.layer_groups(model))
        kf.freeze(model, groups=groups - 1 if depth == "head" else groups // 2)
        return model

    # EfficientNet's own dropout in its blocks leaves only what is before them.
    cached.compare(build, images(rows, size=48, channels=3), epochs=2)


def heads_at_several_depths():
    inputs = keras.Input((4,))
    low = layers.Dense(5, activation="relu", name="low")(inputs)
    middle = layers.Dense(5, activation="relu", name="middle")(low)
    outputs = [
        layers.Dense(3, activation="softmax", name=f"head_{n}")(x)
        for n, x in enumerate([low, middle])
    ]
    return keras.Model(inputs, outputs)


def test_several_outputs_tap_the_backbone():
    x, y = vectors()
    cached.compare(frozen(heads_at_several_depths, layers=["low", "middle"]), (x, [y, y]))


class Subclassed(keras.Model):
    """A model without a graph: its own code between a backbone and a head."""

    def __init__(self, rate=0.0, again=0.0):
        super().__init__()
        self.again = again
        self.backbone = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, activation="relu", name="low"),
                layers.Dropout(rate),
                layers.Dense(6, activation="relu", name="middle"),
            ],
            name="backbone",
        )
        self.second = layers.Dense(6, name="second")
        self.head = layers.Dense(3, activation="softmax", name="head")

    def call(self, x, training=None):
        deep = self.second(self.backbone(x, training=False)) + 1.0
        if self.again:
            deep += self.again * self.backbone(x * 0.5, training=False)
        return self.head(deep)


def subclassed(*names, rate=0.0, again=0.0):
    def build():
        model = Subclassed(rate, again)
        model(np.zeros((1, 4), "float32"))
        for name in names:
            part = model.backbone if name in ("low", "middle") else model
            (part.get_layer(name) if part is not model else getattr(model, name)).trainable = False
        return model

    return build


@pytest.mark.backend
@pytest.mark.parametrize(
    "names", [("low",), ("low", "middle"), ("low", "middle", "second")], ids="-".join
)
def test_a_subclassed_model(names):
    cached.compare(subclassed(*names), vectors())
    # Only the call on the batch itself is served; the graph of the step is another one then, and
    # TensorFlow may round otherwise.
    build = subclassed(*names, again=2.0)
    cache = kf.PrefixCache(auto=False, verbose=0)
    outcomes = [cached.fit(build, vectors(), *given, epochs=3) for given in ([cache], [])]
    cached.assert_same(*outcomes, exact=False)
    assert cache.statistics.hits


def test_a_backbone_called_as_at_inference_drops_nothing():
    cached.compare(subclassed("low", "middle", rate=0.5), vectors())


def test_a_subclassed_model_of_which_nothing_can_be_kept(capsys):
    statistics = cached.compare(subclassed("second"), vectors(), expect_hits=False)
    assert statistics.misses == 0


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.backend
def test_other_precisions(precision, nested):
    keras.config.set_dtype_policy(precision)
    try:
        cached.compare(frozen(nested, layers=["backbone"]), images())
    finally:
        keras.config.set_dtype_policy("float32")


@on_tensorflow
def test_compiled_by_xla_it_agrees_up_to_rounding(batch_norm):
    build = frozen(batch_norm, 1)
    options = {"compile_options": {"jit_compile": True}, "epochs": 3}
    plain = cached.fit(build, images(), **options)
    cache = kf.PrefixCache(auto=False, verbose=0)
    cached.assert_same(cached.fit(build, images(), cache, **options), plain, exact=False)
    assert cache.statistics.hits


@on_tensorflow
def test_eager_steps(batch_norm):
    options = {"compile_options": {"run_eagerly": True}}
    cached.compare(frozen(batch_norm, 1), images(), **options)


# Data


def pipeline(kind):
    import tensorflow as tf

    x, y = images(rows=21)
    weights = np.linspace(0.5, 1.5, 21).astype("float32")
    parts = (x, y, weights) if kind == "weighted" else (x, y)
    data = tf.data.Dataset.from_tensor_slices(parts)
    if kind in ("shuffled", "repeated"):
        data = data.shuffle(21, seed=5)
    data = data.batch(8, drop_remainder=kind == "static").prefetch(1)
    return data.repeat() if kind == "repeated" else data


@pytest.mark.parametrize("kind", ["batched", "shuffled", "repeated", "weighted", "static"])
def test_tf_data(kind, batch_norm):
    steps = {"steps_per_epoch": 3} if kind == "repeated" else {}
    outcomes = []
    for cache in (None, kf.PrefixCache(auto=False, verbose=0)):
        data = pipeline(kind)
        outcomes.append(
            cached.fit(
                frozen(batch_norm, 1),
                data,
                *([cache] if cache else []),
                probe=images()[0],
                epochs=3,
                shuffle=False,
                **steps,
            )
        )
    cached.assert_same(*outcomes)
    assert cache.statistics.hits


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = images(rows=21)
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


@pytest.mark.backend
def test_py_dataset(batch_norm):
    cache = kf.PrefixCache(auto=False, verbose=0)
    arguments = {"probe": images()[0], "epochs": 3}
    build = frozen(batch_norm, 1)
    plain = cached.fit(build, Batches(), **arguments)
    cached.assert_same(cached.fit(build, Batches(), cache, **arguments), plain)
    assert cache.statistics.hits == 42


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        {"sample_weight": np.linspace(0.1, 2.0, 20).astype("float32")},
        {"validation_split": 0.25, "validation_data": None},
        {"shuffle": False, "batch_size": 7},
        {"validation_freq": 2},
        {"validation_data": None},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_arguments_of_fit(settings, batch_norm):
    cached.compare(frozen(batch_norm, 1), images(), epochs=4, **settings)


def test_inputs_of_another_dtype(batch_norm):
    x, y = images()
    cached.compare(frozen(batch_norm, 1), ((x * 40).astype("int32"), y))
    cached.compare(frozen(batch_norm, 1), (x.astype("float64"), y))


def test_dictionaries_of_inputs():
    def build():
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        shared = layers.Dense(5, name="shared")
        x = layers.Concatenate()([shared(a), shared(b)])
        return keras.Model({"a": a, "b": b}, layers.Dense(3, activation="softmax")(x))

    x, y = vectors()
    cached.compare(frozen(build, layers=["shared"]), ({"b": x[::-1], "a": x}, y))


class Augmented(keras.utils.PyDataset):
    """Other noise on each image in each epoch."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.epoch = x, y, 0

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        noise = np.random.default_rng([self.epoch, index]).normal(size=self.x[rows].shape)
        return (self.x[rows] + noise).astype("float32"), self.y[rows]

    def on_epoch_end(self):
        self.epoch += 1


@pytest.mark.backend
def test_random_augmentation_is_noticed_in_the_second_epoch(batch_norm, capsys):
    x, y = images(rows=64)

    def run(*callbacks):
        arguments = {"probe": x, "epochs": 3, "validation_data": (x, y), "shuffle": False}
        return cached.fit(frozen(batch_norm, 1), Augmented(x, y), *callbacks, **arguments)

    cache = kf.PrefixCache(auto=False)
    cached.assert_same(run(cache), run())
    said = capsys.readouterr().out
    assert said.count("caching is disabled for training: no sample of the previous epoch was") == 1
    # Validation goes on: 64 samples twice.
    assert cache.statistics.hits == 128
    assert cache.statistics.misses == 64 * 4


def test_single_samples_and_a_generator(batch_norm):
    cached.compare(frozen(batch_norm, 1), images(rows=5), batch_size=1)

    def batches():
        x, y = images()
        while True:
            for n in range(0, 20, 8):
                yield x[n : n + 8], y[n : n + 8]

    outcomes = []
    for given in ([], [kf.PrefixCache(auto=False, verbose=0)]):
        settings = {"probe": images()[0], "epochs": 4, "steps_per_epoch": 3, "shuffle": False}
        outcomes.append(cached.fit(frozen(batch_norm, 1), batches(), *given, **settings))
    cached.assert_same(*outcomes)
    assert given[0].statistics.hits == 60


def test_texts_of_different_length():
    import tensorflow as tf

    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(11, 4, mask_zero=True)
            self.lstm = layers.LSTM(4, return_sequences=True)
            self.last = layers.LSTM(3)
            self.head = layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.head(self.last(self.lstm(self.embedding(x))))

    def build():
        model = Reader()
        model(np.ones((1, 3), "int32"))
        for layer in (model.embedding, model.lstm):
            layer.trainable = False
        return model

    def data():
        rng = np.random.default_rng(0)
        rows = [rng.integers(1, 11, n).astype("int32") for n in (3, 4, 3, 5, 6, 2, 4, 4, 7)]
        texts = tf.data.Dataset.from_generator(
            lambda: iter(zip(rows, range(9), strict=True)),
            output_signature=(tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32)),
        )
        return (
            texts.map(lambda x, y: (x, y % 3))
            .padded_batch(3)
            .apply(tf.data.experimental.assert_cardinality(3))
        )

    cache = kf.PrefixCache(auto=False, verbose=0)
    settings = {"probe": np.ones((2, 3), "int32"), "epochs": 3, "shuffle": False}
    plain = cached.fit(build, data(), **settings)
    cached.assert_same(cached.fit(build, data(), cache, **settings), plain)
    assert cache.statistics.hits == 18


# Schedules and other callbacks


@pytest.mark.backend
def test_transitions_in_the_middle_of_an_epoch(batch_norm):
    def schedule(cache):
        phases = [Phase(2, until=AfterSteps(4)), Phase(1, until=AfterSteps(7)), Phase(0)]
        return kf.FreezeScheduler(FreezeSchedule(phases), cache=cache, verbose=0)

    cache = kf.PrefixCache(auto=False, verbose=0)
    plain = cached.fit(batch_norm, images(), schedule(False), epochs=6)
    cached.assert_same(cached.fit(batch_norm, images(), schedule(cache), epochs=6), plain)
    assert cache.statistics.hits


class At(keras.callbacks.Callback):
    """Does something to the model at a moment."""

    def __init__(self, action, epoch=1, batch=None):
        super().__init__()
        self.action, self.epoch, self.batch, self.now = action, epoch, batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if self.batch is None and epoch == self.epoch:
            self.action(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            self.action(self.model)


def scale_kernel(model):
    kernel = next(v for v in model.weights if v.path.endswith("block1_conv/kernel"))
    kernel.assign(kernel * 1.5)


def load_others(model):
    model.set_weights([w * 0.9 for w in model.get_weights()])


def thaw(model):
    kf.unfreeze(model, groups=1)


def lower_precision(model):
    model.get_layer("block1_conv").dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    kf.recompile(model, force=True)
    model.make_test_function(force=True)  # which else keeps the trace of before


def freeze_more(model):
    kf.freeze(model, groups=1)


@pytest.mark.backend
@pytest.mark.parametrize("batch", [None, 1], ids=["between epochs", "within an epoch"])
@pytest.mark.parametrize(
    "action", [scale_kernel, load_others, thaw, lower_precision], ids=lambda f: f.__name__
)
def test_what_changes_the_prefix_is_noticed(action, batch, batch_norm):
    cached.compare(
        frozen(batch_norm, layers=["block1_conv", "block1_bn"]),
        images(),
        lambda: At(action, 2, batch),
        epochs=4,
    )


def test_a_prefix_that_keeps_changing_is_not_cached(batch_norm, capsys):
    class Restless(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            scale_kernel(self.model)

    cached.compare(
        frozen(batch_norm, 1),
        images(),
        Restless,
        cache=kf.PrefixCache(auto=False),
        epochs=4,
        expect_hits=False,
    )
    said = capsys.readouterr().out
    assert "not used: weights before the cut keep changing (block1_conv/kernel)" in said


def test_a_second_fit_and_a_fit_without(batch_norm):
    build, data = frozen(batch_norm, 1), images()
    outcomes = []
    for cache in (None, kf.PrefixCache(auto=False, verbose=0)):
        model = build()
        model.compile("adam", "sparse_categorical_crossentropy")
        callbacks = [cache] if cache else []
        settings = {"epochs": 2, "batch_size": 8, "verbose": 0, "shuffle": False}
        model.fit(*data, callbacks=callbacks, **settings)
        scale_kernel(model)
        model.fit(*data, callbacks=callbacks, **settings)
        model.fit(*data, **settings)
        outcomes.append(model.get_weights())
        assert not {"train_step", "make_train_function"} & set(vars(model))
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_on_a_batch_by_hand_within_a_fit(batch_norm):
    class ByHand(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if keras.backend.backend() == "tensorflow":
                x, y = images(rows=4)
                self.model.train_on_batch(x[::-1], y)
                self.model.evaluate(x * 2.0, y, verbose=0)

    cached.compare(frozen(batch_norm, 1), images(), ByHand, epochs=4)


@pytest.mark.backend
def test_one_cache_serves_the_fit_after_an_interrupted_one(batch_norm):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    build, data = frozen(batch_norm, 1), images()
    cache = kf.PrefixCache(auto=False, verbose=0)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, epochs=3, verbose=0, callbacks=[cache, Stop()])
    model.fit(*data, epochs=2, verbose=0, callbacks=[cache])
    assert (cache.statistics.misses, cache.statistics.hits) == (20, 20)
    assert not {"train_step", "make_train_function"} & set(vars(model))


def test_after_an_interrupted_fit_the_next_is_plain(batch_norm):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = frozen(batch_norm, 1)()
    model.compile("adam", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*images(), verbose=0, callbacks=[cache, Stop()])
    model.fit(*images(), epochs=2, verbose=0)
    assert cache.statistics.hits == 0
    assert "make_train_function" not in vars(model)


@pytest.mark.backend
def test_beside_other_callbacks(batch_norm, tmp_path):
    def others():
        return [
            kf.FreezeGuard(every=2),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1),
            keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True),
            kf.BackupAndRestore(tmp_path / "backup"),
        ]

    build, data = frozen(batch_norm, 1), images()
    plain = cached.fit(build, data, *others(), epochs=4)
    cache = kf.PrefixCache(auto=False, verbose=0)
    (tmp_path / "m.keras").unlink()
    cached.assert_same(cached.fit(build, data, cache, *others(), epochs=4), plain)
    assert cache.statistics.hits
    keras.models.load_model(tmp_path / "m.keras")


@pytest.mark.filterwarnings("ignore:.*flags of single variables")
@pytest.mark.parametrize("mode", ["follow", "statistics", "train"])
def test_modes_of_batch_norm(mode, batch_norm):
    def schedule(cache):
        plan = {0: 2, 2: 1, 4: None}
        return kf.FreezeScheduler(plan, batch_norm=mode, cache=cache, verbose=0)

    plain = cached.fit(batch_norm, images(), schedule(False), epochs=6)
    cache = kf.PrefixCache(auto=False, verbose=0)
    cached.assert_same(cached.fit(batch_norm, images(), schedule(cache), epochs=6), plain)
    assert cache.statistics.hits


# What must not be taken for deterministic is found out


def test_a_layer_wrongly_taken_for_deterministic_is_found_before_it_is_used(monkeypatch, capsys):
    monkeypatch.setitem(layer_rules.LAYERS, "Dropout", layer_rules.pure)

    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(16, name="low")(layers.Dropout(0.5, seed=1)(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(auto=False)
    model = frozen(build, layers=["low"])()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(*vectors(), epochs=2, verbose=0, callbacks=[cache])
    assert "depends on other samples or on chance" in capsys.readouterr().out
    assert cache.statistics.hits == 0


def test_features_that_are_outdated_are_found_in_the_audit(batch_norm, monkeypatch):
    get = RowStore.get

    def other(self, keys):
        rows = get(self, keys)
        return rows and [row * 1.01 for row in rows]

    monkeypatch.setattr(RowStore, "get", other)
    build, data = frozen(batch_norm, 1), images()
    with pytest.warns(UserWarning, match="differs from an earlier epoch"):
        statistics = cached.compare(build, data, expect_hits=False)
    assert statistics.nbytes


@on_tensorflow
def test_a_cut_is_tried_with_the_function_that_is_traced_already(batch_norm, monkeypatch):
    traced, own = [], compiled_prefix.features_of
    monkeypatch.setattr(
        compiled_prefix, "features_of", lambda *args: traced.append(args[2].shape[0]) or own(*args)
    )
    cache = kf.PrefixCache(auto=False, verbose=0)
    cached.fit(frozen(batch_norm, 1), images(rows=24), cache, epochs=1)
    assert traced == [8]  # the size of all batches, in training and validation


def test_every_epoch_is_audited_and_a_failure_drops_all(batch_norm, monkeypatch):
    get, calls = RowStore.get, []

    def later_other(self, keys):
        rows = get(self, keys)
        if rows is not None:
            calls.append(keys)
        # 3 batches each to train and to validate: the second epoch is looked up as it was.
        return rows and [row * (1.01 if len(calls) > 6 else 1.0) for row in rows]

    monkeypatch.setattr(RowStore, "get", later_other)
    cache = kf.PrefixCache(auto=False, verbose=0)
    with pytest.warns(UserWarning, match="differs from an earlier epoch"):
        cached.compare(frozen(batch_norm, 1), images(), cache=cache, epochs=5)
    assert len(calls) == 7  # nothing is looked up any more, in validation neither
    assert cache.statistics.hits == 40


class Teacher(keras.Model):
    """Changes a weight of the frozen part in each step."""

    def train_step(self, state, data):
        logs, state = super().train_step(state, data)
        others = [1.01 * v if v.shape == (3, 3, 2, 4) else v for v in state[1]]
        return logs, (state[0], others, *state[2:])


@pytest.mark.backend
@pytest.mark.skipif(BACKEND != "jax", reason="other backends show where a weight is")
def test_a_step_that_writes_to_what_is_frozen(batch_norm):
    def build():
        model = batch_norm()
        return Teacher(model.inputs, model.outputs)

    cached.compare(frozen(build, 1), images(), expect_hits=False)


def test_freezing_late_in_an_epoch_does_not_look_like_augmentation(batch_norm):
    def schedule(cache):
        first, then = Phase(until=AfterSteps(5)), Phase(frozen=1)
        return kf.FreezeScheduler(FreezeSchedule([first, then]), cache=cache, verbose=0)

    settings = {"epochs": 4, "shuffle": False, "batch_size": 4}
    data = images(rows=32)
    plain = cached.fit(batch_norm, data, schedule(False), **settings)
    cache = kf.PrefixCache(auto=False, verbose=0)
    cached.assert_same(cached.fit(batch_norm, data, schedule(cache), **settings), plain)
    # Of the first epoch 3 batches are cut, and of the others all 8.
    assert cache.statistics.hits == 32 * (2 + 3) + 12


# What is not cached, and is told


class Custom(layers.Layer):
    def call(self, x):
        return x * 2.0


class OwnStep(keras.Model):
    def train_step(self, *args):
        *state, (x, y) = args
        return super().train_step(*state, (keras.ops.flip(x, axis=1), y))


class Distorted(keras.Model):
    def train_step(self, *args):
        *state, data = args
        return super().train_step(*state, data)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        return loss + 0.1 * keras.ops.mean(x)


def custom_model(cls):
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(5, activation="relu", name="low")(inputs)
        return cls(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["low"])


def test_a_step_that_changes_its_inputs_is_left_alone(capsys):
    cache = kf.PrefixCache(auto=False)
    statistics = cached.compare(custom_model(OwnStep), vectors(), cache=cache)
    said = capsys.readouterr().out
    assert "caching is disabled for training: the model's train_step does not call" in said
    assert statistics.hits == 40  # validation


def test_a_step_of_ones_own_and_a_loss_of_the_inputs():
    cached.compare(custom_model(Distorted), vectors())


class OwnCall(keras.Model):
    """A Functional model that does more than walk through its graph."""

    def call(self, x, training=None, mask=None):
        if training:
            x = x[:, ::-1]
        return super().call(x, training=training) + super().call(x * 0.5, training=training)


def test_a_call_around_the_graph_is_not_skipped(capsys):
    cached.compare(
        custom_model(OwnCall), vectors(), cache=kf.PrefixCache(auto=False), expect_hits=False
    )
    assert "does not pass the batch itself to its frozen layers" in capsys.readouterr().out


def shared_backbone(again):
    def build():
        inner_in = keras.Input((4,))
        x = layers.Dense(4, activation="relu", name="low")(inner_in)
        inner = keras.Model(inner_in, layers.Dense(4, name="middle")(x), name="inner")
        one, many = keras.Input((4,)), keras.Input((3, 4))
        pooled = layers.GlobalAveragePooling1D()(again(inner)(many))
        x = layers.Concatenate()([inner(one), pooled])
        return keras.Model([one, many], layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["low"])


def test_a_model_that_is_cut_and_used_elsewhere_too():
    class Each(layers.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return keras.ops.stack([self.inner(x[:, n]) for n in range(3)], axis=1)

    x, y = vectors()
    many = np.stack([x, x + 1.0, x * 2.0], axis=1)
    cached.compare(shared_backbone(Each), ([x, many], y))
    cached.compare(shared_backbone(layers.TimeDistributed), ([x, many], y))


@on_tensorflow
def test_what_a_models_own_code_counts_is_counted_once():
    class Counting(Subclassed):
        def __init__(self):
            super().__init__()
            self.seen = self.add_weight(shape=(), dtype="int32", trainable=False, name="seen")
            self.seeds = keras.random.SeedGenerator(3)

        def build(self, shape):
            for layer in (self.second, self.head):
                layer.build((None, 6))

        def call(self, x, training=None):
            self.seen.assign_add(1)
            x = self.backbone(x, training=False)
            return self.head(self.second(x) + keras.random.normal((1, 6), seed=self.seeds))

    def build():
        model = Counting()
        model(np.zeros((1, 4), "float32"))
        model.backbone.trainable = False
        return model

    cached.compare(build, vectors())


def test_a_model_that_is_not_called_on_its_inputs_alone(capsys):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.low = layers.Dense(5, name="low")
            self.head = layers.Dense(3, activation="softmax")

        def call(self, first, second):
            return self.head(self.low(first) + second)

        def train_step(self, *args):
            *_, (x, y) = args
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(first=x, second=1.0 + x[:, :1]))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    model = Two()
    x, y = vectors()
    model(x, x[:, :1])
    model.low.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    if BACKEND == "tensorflow":
        model.fit(x, y, verbose=0, callbacks=[kf.PrefixCache(auto=False)])
        assert "can't be called on a batch's inputs alone" in capsys.readouterr().out


REFUSED = {
    "custom": (lambda: Custom(name="mine"), "Custom 'mine' is not known to be deterministic"),
    "dropout": (
        lambda: layers.Dropout(0.5, name="drop"),
        "Dropout 'drop' is stochastic in training mode",
    ),
    "activity": (
        lambda: layers.Dense(4, activity_regularizer="l2", name="dense"),
        "Dense 'dense' adds a loss that depends on its output",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_cached_ends_the_prefix(kind, capsys):
    layer, reason = REFUSED[kind]

    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="low")(layer()(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    def make():
        model = build()
        for own in model.layers[:-1]:
            own.trainable = False
        return model

    cached.compare(make, vectors(), cache=kf.PrefixCache(auto=False), expect_hits=False)
    assert f"cache: not used: {reason}." in capsys.readouterr().out


@on_tensorflow
def test_several_batches_a_step_are_left_alone(batch_norm, capsys):
    cached.compare(
        frozen(batch_norm, 1),
        images(),
        cache=kf.PrefixCache(auto=False),
        expect_hits=False,
        compile_options={"steps_per_execution": 2},
    )
    assert "not used: each step runs several batches" in capsys.readouterr().out


def test_several_devices_are_left_alone(mirrored, batch_norm, capsys):
    with mirrored.scope():
        model = frozen(batch_norm, 1)()
        model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(*images(), verbose=0, callbacks=[kf.PrefixCache(auto=False)])
    assert "not used: the model is spread over several devices" in capsys.readouterr().out


def test_what_is_too_small_to_pay_is_left_alone(batch_norm, capsys):
    cache = kf.PrefixCache()
    cached.compare(frozen(batch_norm, 1), images(), cache=cache, expect_hits=False)
    assert "takes too little time of a step" in capsys.readouterr().out


# As at inference


def test_inference_mode_drops_nothing_in_the_frozen_part(capsys):
    def whole():
        encoder = attention_encoder(rate=0.4)
        x = layers.Dropout(0.5, seed=3)(encoder.layers[-2].output)
        outputs = layers.Dense(3, activation="softmax", name="head")(x)
        model = keras.Model(encoder.inputs, outputs)
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(scale=0.3, size=w.shape) for w in model.get_weights()])
        kf.freeze(model, matching="embedding|.*_[12]")
        return model

    def head():
        model = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dropout(0.5, seed=3),
                layers.Dense(3, activation="softmax", name="head"),
            ]
        )
        model.set_weights(whole().get_weights()[-2:])
        return model

    cache = kf.PrefixCache(mode="inference")
    with_cache = cached.fit(whole, tokens(), cache, epochs=3)
    model = whole()
    features = keras.Model(model.inputs, model.layers[-3].output).predict(tokens()[0], verbose=0)
    by_hand = cached.fit(head, (features, tokens()[1]), epochs=3)
    np.testing.assert_array_equal(with_cache.history["loss"], by_hand.history["loss"])
    assert cache.statistics.hits
    assert "Frozen layers run in inference mode" in capsys.readouterr().out
    plain = cached.fit(whole, tokens(), epochs=3)
    assert plain.history["loss"] != by_hand.history["loss"]


def test_inference_mode_that_can_not_be_had_is_an_error():
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="low")(Custom(name="mine")(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cache = kf.PrefixCache(mode="inference")
    with pytest.raises(ValueError, match=r'mode="inference"\) must be able to cut.*mine'):
        cached.fit(frozen(build, layers=["low"]), vectors(), cache)


# Memory


def test_beyond_the_limit_features_go_to_files(batch_norm, tmp_path):
    cache = kf.PrefixCache(max_bytes=0, directory=tmp_path, auto=False, verbose=0)
    statistics = cached.compare(frozen(batch_norm, 1), images(), cache=cache)
    assert statistics.hits == 80
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["missing", "full"])
def test_where_files_can_not_be_written_training_goes_on(folder, batch_norm, tmp_path, monkeypatch):
    if folder == "full":

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(feature_store, "_mapped", full)
        directory = tmp_path
    else:
        directory = tmp_path / "missing"
    cache = kf.PrefixCache(max_bytes=0, directory=directory, auto=False, verbose=0)
    with pytest.warns(UserWarning, match="caching is disabled, since features can't be"):
        statistics = cached.compare(frozen(batch_norm, 1), images(), cache=cache, expect_hits=False)
    assert statistics.nbytes == 0


# The lines that are printed


def test_what_is_said(batch_norm, capsys):
    cached.fit(frozen(batch_norm, 1), images(), kf.PrefixCache(auto=False), epochs=3)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("cache: up to 24 samples at block1_pool, ")
    assert last.startswith("cache: 67 % of 120 samples were looked up; at most ")


def test_two_caches_in_one_fit(plain, data_for):
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = [kf.GradualUnfreeze(cache=True, verbose=0), kf.PrefixCache(verbose=0)]
    with pytest.raises(ValueError, match=r"GradualUnfreeze\(cache=...\) must be left out beside"):
        model.fit(*data_for(model), verbose=0, callbacks=callbacks)
