"""Only Keras's own calls and steps are cut; a user's own steps if they give their word for them."""

import cached
import keras
import numpy as np
import pytest
from cached import BACKEND, frozen, on_tensorflow, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.prefix_cache.planning import reason_against_step

backend = pytest.mark.backend


class OwnCall(keras.Model):
    def call(self, x, training=None, mask=None):
        if training:
            x = keras.ops.flip(x, axis=1)
        return super().call(x, training=training) + super().call(x * 0.5, training=training)


class Around(keras.Model):
    def __call__(self, x, **settings):
        return super().__call__(x * 2.0, **settings)


class OwnTrainStep(keras.Model):
    def train_step(self, *args):
        *state, data = args
        return super().train_step(*state, data)


class OwnLoss(OwnTrainStep):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        return loss + 0.1 * keras.ops.mean(x)


class OwnTestStep(keras.Model):
    def test_step(self, *args):
        return super().test_step(*args)


class OwnMetrics(keras.Model):
    @property
    def metrics(self):
        return super().metrics


class Harmless(keras.Model):
    """Replaces what no step calls, and has a method that Keras does not know."""

    def compile(self, *args, **settings):
        super().compile(*args, **settings)

    def fit(self, *args, **settings):
        return super().fit(*args, **settings)

    def draw(self):
        return keras.random.normal((2,))


def of_class(cls):
    return frozen(lambda: cached.dense_stack(cls), layers=["low"])


def reasons(model, custom_step=False):
    model.compile("sgd", "mse")
    kinds = ("train", "test")
    found = [reason_against_step(model, kind, custom_step=custom_step) for kind in kinds]
    return [reason and reason.detail.partition(" of its own")[0] for reason in found]


@pytest.mark.parametrize(
    ("cls", "train", "test", "with_word"),
    [
        (keras.Model, None, None, True),
        (Harmless, None, None, True),
        (OwnTrainStep, "a train_step", None, True),
        (OwnTestStep, None, "a test_step", True),
        (OwnLoss, "a compute_loss and a train_step", "a compute_loss", True),
        (OwnMetrics, "a metrics", "a metrics", True),
        (OwnCall, "a call", "a call", False),
        (Around, "a __call__", "a __call__", False),
    ],
)
def test_what_is_a_models_own(cls, train, test, with_word):
    model = cached.dense_stack(cls)
    expected = [own and f"model {model.name!r} has {own}" for own in (train, test)]
    assert reasons(model) == expected
    assert reasons(model, custom_step=True) == ([None, None] if with_word else expected)


def test_what_is_set_on_one_model_is_its_own_too():
    model = cached.dense_stack()
    model.train_step = lambda data: {}
    assert reasons(model)[0] == f"model {model.name!r} has a train_step"


def test_a_layer_with_a_call_that_was_set_is_not_known():
    model = of_class(keras.Model)()
    low = model.get_layer("low")
    low.call = lambda x, **settings: keras.ops.flip(keras.ops.matmul(x, low.kernel), axis=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, verbose=0)
    model.fit(*vectors(), epochs=2, verbose=0, callbacks=[cache])
    assert cache.statistics.hits == 0


@backend
@pytest.mark.parametrize("cls", [OwnCall, Around])
@pytest.mark.at_commit("OwnCall")
def test_a_call_of_its_own_trains_untouched(cls, capsys):
    cached.compare(of_class(cls), vectors(), cache=kf.PrefixCache(auto=False), expect_hits=False)
    assert "only a Functional or Sequential model" in capsys.readouterr().out


def test_a_model_without_a_graph_trains_untouched(capsys):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.low = layers.Dense(4, name="low", trainable=False)
            self.head = layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.head(self.low(x))

    def build():
        model = Subclassed()
        model(np.zeros((1, 4), "float32"))
        return model

    cached.compare(build, vectors(), cache=kf.PrefixCache(auto=False), expect_hits=False)
    assert "has a call of its own" in capsys.readouterr().out


@backend
def test_validation_is_cached_where_training_can_not_be(capsys):
    cache = kf.PrefixCache(auto=False)
    statistics = cached.compare(of_class(OwnTrainStep), vectors(), cache=cache, validate=True)
    assert (statistics.hits, statistics.misses) == (40, 20)
    said = "caching is disabled for training: model 'own_train_step"
    assert said in capsys.readouterr().out


@backend
@pytest.mark.parametrize("cls", [OwnTrainStep, OwnLoss])
def test_a_step_with_the_users_word_is_served(cls):
    cache = kf.PrefixCache(auto=False, custom_step=True, verbose=0)
    statistics = cached.compare(of_class(cls), vectors(), cache=cache, validate=True)
    assert statistics.hits == 80


@backend
def test_a_loss_and_a_metric_of_the_users_are_served():
    def loss(y, prediction):
        return keras.losses.sparse_categorical_crossentropy(y, prediction) * 2.0

    def largest(y, prediction):
        return keras.ops.max(prediction, axis=-1)

    options = {"loss": loss, "metrics": [largest]}
    cached.compare(of_class(keras.Model), vectors(), compile_options=options)


def of_task():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.VGGBackbone(
        stackwise_num_repeats=[1, 1], stackwise_num_filters=[4, 8], image_shape=(8, 8, 3)
    )
    task = keras_hub.models.ImageClassifier(backbone, num_classes=3, preprocessor=None)
    kf.freeze(task, groups=2)
    return task


@pytest.mark.slow
def test_a_task_of_keras_hub_counts_as_keras_own():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = cached.images(size=8, channels=3)
    cached.compare(of_task, data, compile_options={"loss": loss}, exact=False, shuffle=False)


@pytest.mark.slow
def test_the_steps_of_tasks_of_keras_hub():
    keras_hub = pytest.importorskip("keras_hub")
    from keras_freeze.keras_internals.own_code import _of_class

    tasks = [c for c in vars(keras_hub.models).values() if isinstance(c, type)]
    own = {c.__name__: _of_class(c)[1] for c in tasks if issubclass(c, keras_hub.models.Task)}
    assert own["ViTImageClassifier"] == own["GPT2CausalLM"] == own["BertTextClassifier"] == set()
    assert own["RetinaNetObjectDetector"] == {"compute_loss"}


# What breaks the word


def refused(cls, what, data=None, **options):
    """Expect that a fit with the user's word for a step is refused."""
    model = of_class(cls)()
    loss = "sparse_categorical_crossentropy"
    model.compile(**{"optimizer": "sgd", "loss": loss, **options})
    cache = kf.PrefixCache(auto=False, custom_step=True, verbose=0)
    with pytest.raises(ValueError, match=f"custom_step=.*Received: .*{what}"):
        model.fit(*(data or vectors()), epochs=2, verbose=0, callbacks=[cache])


class OnAnother(keras.Model):
    def train_step(self, *args):
        *state, (x, y) = args
        return super().train_step(*state, (keras.ops.flip(x, axis=1), y))


class Nowhere(keras.Model):
    def train_step(self, data):
        return {"loss": 0.0}


class Writing(keras.Model):
    def train_step(self, data):
        kernel = self.get_layer("low").kernel
        kernel.assign(kernel * 0.99)
        return super().train_step(data)


@backend
def test_a_call_on_another_tensor_is_refused():
    refused(OnAnother, "calls the model on something else than the batch alone")


def test_a_step_that_does_not_call_the_model_is_refused():
    if BACKEND == "tensorflow":
        refused(Nowhere, "does not call the model on the batch", run_eagerly=True)


@backend
@pytest.mark.skipif(BACKEND == "jax", reason="a step returns what it changes there")
def test_a_step_that_writes_to_frozen_weights_is_refused():
    refused(Writing, "writes to weights before the cut")


@on_tensorflow
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_gradient_of_the_input_is_refused_on_tensorflow(run_eagerly):
    import tensorflow as tf

    class Penalized(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    prediction = self(x, training=True)
                    total = tf.reduce_sum(prediction[:, 0])
                slope = inner.gradient(total, x, unconnected_gradients="zero")
                loss = self.compute_loss(x, y, prediction) + tf.reduce_mean(slope**2)
            gradients = outer.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    refused(Penalized, "asks for the gradient of the input", run_eagerly=run_eagerly)


@on_tensorflow
def test_a_tape_that_watches_weights_alone_is_served():
    import tensorflow as tf

    class Taped(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    cache = kf.PrefixCache(auto=False, custom_step=True, verbose=0)
    cached.compare(of_class(Taped), vectors(), cache=cache)


@on_tensorflow
def test_a_call_with_other_weights_is_refused_on_tensorflow():
    class Elsewhere(keras.Model):
        def train_step(self, data):
            x, _ = data
            kernel = self.get_layer("low").kernel
            with keras.StatelessScope(state_mapping=[(kernel, kernel.value * 2.0)]):
                self(x, training=True)
            return super().train_step(data)

    refused(Elsewhere, "calls the model with other weights")


@backend
@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_call_with_other_weights_is_refused_on_jax():
    class Elsewhere(keras.Model):
        def train_step(self, state, data):
            trained, others, *rest = state
            return super().train_step((trained, [v * 2 for v in others], *rest), data)

    refused(Elsewhere, "calls the model with other weights")


@backend
@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
@pytest.mark.parametrize("what", ["changes the batch in place", "asks for the gradient"])
def test_a_batch_that_is_changed_or_watched_is_refused_on_torch(what):
    class Touching(keras.Model):
        def train_step(self, data):
            x, _ = data
            if "place" in what:
                x.mul_(2.0)
            else:
                x.requires_grad_(True)
            return super().train_step(data)

    refused(Touching, what)


class WithMask(keras.Model):
    def train_step(self, *args):
        self(_x_of(args), training=True, mask=keras.ops.ones((8,)))
        return super().train_step(*args)


def _x_of(args):
    return args[-1][0]


@pytest.mark.skipif(BACKEND == "jax", reason="a step is given its weights there")
def test_a_call_with_another_argument_is_refused():
    refused(WithMask, "calls the model on something else")


@backend
def test_a_batch_whose_dict_is_changed_is_refused():
    class Changing(keras.Model):
        def train_step(self, *args):
            x, y = args[-1]
            x = dict(x)
            x["a"] = x["a"] * 2.0
            return super().train_step(*args[:-1], (x, y))

    def build():
        inputs = {"a": keras.Input((4,), name="a")}
        x = layers.Dense(4, name="low", trainable=False)(inputs["a"])
        return Changing(inputs, layers.Dense(3, activation="softmax")(x))

    model = build()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = vectors()
    cache = kf.PrefixCache(auto=False, custom_step=True, verbose=0)
    with pytest.raises(ValueError, match="calls the model on something else"):
        model.fit({"a": x}, y, verbose=0, callbacks=[cache])


@pytest.mark.skipif(BACKEND == "jax", reason="a step returns what it changes there")
@backend
def test_weights_that_are_replaced_for_a_call_are_refused():
    class Replacing(keras.Model):
        def train_step(self, data):
            kernel = self.get_layer("low").kernel
            old = keras.ops.copy(kernel.value)
            kernel.assign(old * 1.3)
            result = super().train_step(data)
            kernel.assign(old)
            return result

    refused(Replacing, "writes to weights before the cut")


@backend
def test_a_step_that_is_set_in_a_fit_is_left_whole(capsys):
    def swap(model):
        own = type(model).train_step

        def step(*args):
            *state, (x, y) = args
            return own(model, *state, (keras.ops.flip(x, axis=1), y))

        object.__setattr__(model, "train_step", step)
        model.make_train_function(force=True)

    cache = kf.PrefixCache(auto=False)
    callbacks = [lambda: cached.At(swap)]
    if BACKEND != "jax":
        model = of_class(keras.Model)
        cached.compare(model, vectors(), *callbacks, cache=cache, expect_hits=False)
        assert "has a train_step of its own" in capsys.readouterr().out


@backend
@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_hooks_are_own_code():
    model = of_class(keras.Model)()
    assert reasons(model) == [None, None]
    model.register_forward_hook(lambda module, inputs, output: None)
    assert "forward_hooks" in reasons(model)[0]
    other = of_class(keras.Model)()
    other.get_layer("low").register_forward_pre_hook(lambda module, inputs: None)
    other.compile("sgd", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, verbose=0)
    other.fit(*vectors(), epochs=2, verbose=0, callbacks=[cache])
    assert cache.statistics.hits == 0
