"""Models that people put on a pretrained backbone, tiny: new layers stand around, in and above.

Each is a function from a backbone to a model. The backbone has three stages, each a convolution
with stride 2 and a `BatchNormalization`: `low`, `middle` and `deep`.
"""

import keras
import numpy as np
from keras import layers

STAGES = ("low", "middle", "deep")


def as_if_trained(model):
    """Move what has the same values in every new model, as training does; return the model."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("bias", "moving_mean", "moving_variance"):
            noise = rng.uniform(0.01, 0.05, variable.shape)
            variable.assign(keras.ops.convert_to_numpy(variable.value) + noise)
    return model


def stage(x, filters, name, **options):
    x = layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def build_backbone(size=16):
    inputs = x = keras.Input((size, size, 2), name="image")
    for filters, name in zip((3, 4, 5), STAGES, strict=True):
        x = stage(x, filters, name, strides=2)
    return as_if_trained(keras.Model(inputs, x, name="backbone"))


def _outputs(backbone, names):
    return [backbone.get_layer(f"{name}_relu").output for name in names]


def classifier(backbone):
    x = layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.input, layers.Dense(3, "softmax", name="classes")(x))


def neck(backbone):
    x = stage(backbone.output, 4, "neck")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(backbone.input, layers.Dense(3, name="classes")(x))


def nested_neck(backbone):
    inputs = keras.Input(backbone.input.shape[1:])
    x = backbone(layers.Rescaling(2.0)(inputs))
    x = layers.GlobalAveragePooling2D()(stage(x, 4, "neck"))
    return keras.Model(inputs, layers.Dense(3, name="classes")(x))


def unet_2(backbone):
    low, deep = _outputs(backbone, ("low", "middle"))
    x = layers.UpSampling2D()(deep)
    x = stage(layers.Concatenate()([x, low]), 4, "up1")
    x = layers.UpSampling2D()(x)
    return keras.Model(backbone.input, layers.Conv2D(1, 1, name="mask")(x))


def unet_3(backbone):
    low, middle, x = _outputs(backbone, STAGES)
    for name, skip in (("up1", middle), ("up2", low)):
        x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name=f"{name}_t")(x)
        x = stage(layers.Concatenate()([x, skip]), 4, name)
    x = layers.Conv2DTranspose(1, 3, strides=2, padding="same", name="mask")(x)
    return keras.Model(backbone.input, x)


def feature_pyramid(backbone):
    low, middle, deep = _outputs(backbone, STAGES)
    top = layers.Conv2D(4, 1, name="lateral_deep")(deep)
    centre = layers.Conv2D(4, 1, name="lateral_middle")(middle) + layers.UpSampling2D()(top)
    bottom = layers.Conv2D(4, 1, name="lateral_low")(low) + layers.UpSampling2D()(centre)
    shared = layers.Conv2D(1, 3, padding="same", name="detect")
    return keras.Model(backbone.input, [shared(top), shared(centre), shared(bottom)])


def deeplab(backbone):
    low, deep = _outputs(backbone, ("low", "deep"))
    branches = [layers.Conv2D(3, 1, name="aspp0")(deep)]
    for rate in (1, 2):
        branches.append(stage(deep, 3, f"aspp{rate}", dilation_rate=rate))
    x = layers.Conv2D(4, 1, name="project")(layers.Concatenate()(branches))
    skip = stage(low, 2, "skip")
    x = layers.Concatenate()([layers.UpSampling2D(4)(x), skip])
    return keras.Model(backbone.input, layers.Conv2D(1, 1, name="mask")(x))


def siamese(backbone):
    left, right = (keras.Input(backbone.input.shape[1:]) for _ in range(2))
    embed = keras.Sequential(
        [layers.GlobalAveragePooling2D(), layers.Dense(3, name="embedding")], name="projection"
    )
    apart = layers.Subtract()([embed(backbone(left)), embed(backbone(right))])
    return keras.Model([left, right], layers.Dense(1, name="same")(apart))


def multi_task(backbone):
    x = layers.GlobalAveragePooling2D()(backbone.output)
    kind = layers.Dense(3, name="kind")(layers.Dense(4, name="kind_hidden")(x))
    size = layers.Dense(1, name="size")(x)
    return keras.Model(backbone.input, [kind, size])


def over_time(backbone):
    inputs = keras.Input((2, *backbone.input.shape[1:]))
    x = layers.TimeDistributed(backbone)(inputs)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    return keras.Model(inputs, layers.Dense(3, name="classes")(layers.LSTM(4, name="time")(x)))


def below_and_above(backbone):
    """A new adapter with `BatchNormalization` feeds the backbone; another one reads it."""
    inputs = keras.Input((*backbone.input.shape[1:3], 1))
    x = backbone(stage(inputs, 2, "adapter"))
    x = layers.GlobalAveragePooling2D()(stage(x, 4, "neck"))
    return keras.Model(inputs, layers.Dense(3, name="classes")(x))


def adapters_between(backbone):
    """New layers stand between the stages of the backbone, which is used layer by layer."""
    x = backbone.input
    for name in STAGES:
        for layer in (name, f"{name}_bn", f"{name}_relu"):
            x = backbone.get_layer(layer)(x)
        x = x + stage(x, x.shape[-1], f"{name}_adapter")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(backbone.input, layers.Dense(3, name="classes")(x))


#: Models by name; each with the stages of the backbone that it uses.
MODELS = {
    "classifier": (classifier, STAGES),
    "neck": (neck, STAGES),
    "nested_neck": (nested_neck, STAGES),
    "unet_2": (unet_2, STAGES[:2]),
    "unet_3": (unet_3, STAGES),
    "feature_pyramid": (feature_pyramid, STAGES),
    "deeplab": (deeplab, STAGES),
    "siamese": (siamese, STAGES),
    "multi_task": (multi_task, STAGES),
    "over_time": (over_time, STAGES),
    "below_and_above": (below_and_above, STAGES),
    "adapters_between": (adapters_between, STAGES),
}
