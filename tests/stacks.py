"""Custom layers that stack transformer blocks, as KerasHub's ViT encoder does."""

import keras
from keras import layers


class Block(layers.Layer):
    """A transformer block as users write it."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 2, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(width, activation="relu", name="up")

    def call(self, x):
        return self.up(self.norm(x + self.attention(x, x)))


class AttentionEncoder(Block):
    """A block whose class has the word in its name, but is more than the attention."""


class Linear(layers.Layer):
    """A block without a layer called attention, as with linear attention."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mix = layers.Dense(4, name="mix")
        self.out = layers.Dense(4, name="out")

    def call(self, x):
        return x + self.out(self.mix(x))


class Residual(layers.Layer):
    """One residual step of a block: a norm and a layer, which may be attention."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.inner = inner

    def call(self, x):
        y = self.norm(x)
        return x + (self.inner(y) if isinstance(self.inner, layers.Dense) else self.inner(y, y))


class OfResiduals(layers.Layer):
    """A block of several steps of one class, which is no stack."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        attentions = [layers.MultiHeadAttention(2, 2) for _ in range(2)]
        self.steps = [Residual(inner) for inner in (*attentions, layers.Dense(4))]

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Stack(layers.Layer):
    """Several blocks and a norm, called one after another; with a bias of its own if asked."""

    def __init__(self, blocks=3, has_own_weight=False, embeds_last=False, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(name=f"deep_{n}") for n in range(blocks)]
        self.embedding = layers.Embedding(3, 4, name="late") if embeds_last else None
        self.last = layers.LayerNormalization(name="last_norm")
        self.shift = self.add_weight(shape=(4,), name="shift") if has_own_weight else None

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        x = self.last(x)
        if self.embedding is not None:
            x = x + self.embedding(keras.ops.arange(3))
        return x if self.shift is None else x + self.shift


def stack_model(**arguments):
    """Return a model of an embedding, a stack and a head, each with weights."""
    inputs = keras.Input((3, 4), name="tokens")
    x = layers.Dense(4, name="patches")(inputs)
    x = Stack(name="stack", **arguments)(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="new")(x), name="stacked")
