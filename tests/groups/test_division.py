"""Layer groups: names a person recognises, every weight once, from input to head."""

import collections
import pickle
import sys

import hypothesis
import hypothesis.strategies as st
import keras
import pytest
from families import (
    BLOCKS,
    CONVS,
    FAMILIES,
    application,
    encoder,
    feed_forward,
    image_and_text,
)
from keras import layers
from stacks import AttentionEncoder, Linear, OfResiduals, stack_model

import keras_freeze as kf
from keras_freeze.groups.call_graph import call_graph
from keras_freeze.groups.division import layer_groups, picture_of
from keras_freeze.model_picture import opened_layers
from keras_freeze.tuning.depth_range import max_depth

# The contract, for whatever model


def check_partition(model, groups):
    weights = [id(v) for group in groups for v in group.variables]
    assert len(weights) == len(set(weights))
    assert set(weights) == {id(v) for v in model.weights}
    found = [id(layer) for group in groups for layer in group.layers]
    assert len(found) == len(set(found))
    assert set(found) == {id(layer) for layer in opened_layers(model)}
    assert sum(group.total_params for group in groups) == model.count_params()
    assert all(group.variables for group in groups)
    names = [group.name for group in groups]
    assert len(names) == len(set(names))


def names_of(model, groups=None):
    found = layer_groups(model, groups)
    check_partition(model, found)
    return [group.name for group in found]


def contents(model, groups=None):
    found = layer_groups(model, groups)
    check_partition(model, found)
    return {group.name: [layer.name for layer in group.layers] for group in found}


def weighted(model):
    return {
        group.name: [layer.name for layer in group.layers if layer.weights]
        for group in layer_groups(model)
    }


# keras.applications


def with_head(inputs, x, flatten=False):
    pool = layers.Flatten if flatten else layers.GlobalAveragePooling2D
    x = layers.Dense(4, activation="relu", name="new_dense")(pool(name="new_pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="new_top")(x))


def nest(model, times):
    for _ in range(times):
        inputs = keras.Input(model.input_shape[1:])
        model = keras.Model(inputs, model(inputs))
    return model


def without_inputs(groups):
    is_input = keras.layers.InputLayer
    return [
        (group.name, [layer.name for layer in group.layers if not isinstance(layer, is_input)])
        for group in groups
    ]


@pytest.mark.parametrize(("family", "size", "expected"), FAMILIES)
@pytest.mark.at_commit("VGG16-32-expected0", "ConvNeXtTiny-32-expected14")
def test_applications(family, size, expected):
    backbone = application(family, size)
    inlined = with_head(backbone.input, backbone.output)
    groups = layer_groups(inlined)
    assert [group.name for group in groups] == expected
    check_partition(inlined, groups)
    assert [layer.name for layer in groups[-1].layers] == ["new_dense", "new_top"]
    for times in (1, 2):
        inputs = keras.Input((size, size, 3))
        flatten = size is not None and times == 2
        nested = with_head(inputs, nest(backbone, times - 1)(inputs), flatten)
        in_nested = layer_groups(nested)
        check_partition(nested, in_nested)
        assert without_inputs(in_nested) == without_inputs(groups)


def test_vgg16_blocks_hold_their_layers_and_pools():
    backbone = application("VGG16", 32)
    found = contents(with_head(backbone.input, backbone.output, flatten=True))
    assert found["block3"] == ["block3_conv1", "block3_conv2", "block3_conv3", "block3_pool"]
    assert found["block5"][-2:] == ["block5_pool", "new_pool"]


def test_no_residual_block_of_a_resnet_is_cut():
    backbone = application("ResNet50", 32)
    for name, found in contents(backbone).items():
        blocks = {layer[:5] for layer in found if layer[:4] == "conv" and layer[5] == "_"}
        assert blocks == {name}


def test_the_classifier_an_application_comes_with_is_the_head():
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=5)
    assert weighted(model)["head"] == ["fc1", "fc2", "predictions"]


def test_a_classifier_of_convolutions_after_pooling_is_a_head():
    model = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25)
    assert weighted(model)["head"] == ["conv_preds"]


def calls_for(blocks):
    """Return how many functions are called to divide a network of so many residual blocks."""
    x = inputs = keras.Input((4,))
    for _ in range(blocks):
        x = keras.layers.Add()([x, keras.layers.Dense(4)(x)])
    model, calls = keras.Model(inputs, keras.layers.Dense(2)(x)), collections.Counter()
    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    try:
        layer_groups(model)
    finally:
        sys.setprofile(None)
    return calls["call"] + calls["c_call"]


def test_the_work_grows_with_the_model_and_not_with_its_square():
    assert calls_for(120) < 2.3 * calls_for(60)


# Sequences


def test_an_lstm_stack_is_one_group_per_layer():
    model = keras.Sequential([keras.Input((8, 4)), layers.LSTM(3, return_sequences=True)])
    for layer in (layers.LSTM(3), layers.Flatten(), layers.Dense(2), layers.Softmax()):
        model.add(layer)
    model.add(layers.Reshape((2, 1)))
    assert contents(model) == {
        "group0": ["lstm"],
        "group1": ["lstm_1", "flatten"],
        "head": ["dense", "softmax", "reshape"],
    }


def test_bidirectional_and_gru_stacks_with_norms():
    model = keras.Sequential(
        [
            keras.Input((8, 4)),
            layers.LayerNormalization(name="norm0"),
            layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both_ways"),
            layers.GRU(3, return_sequences=True, name="middle"),
            layers.LayerNormalization(name="norm1"),
            layers.GRU(3, name="last"),
            layers.BatchNormalization(name="norm2"),
            layers.Dense(2, name="out"),
        ]
    )
    assert contents(model) == {
        "both_ways": ["norm0", "both_ways"],
        "middle": ["middle", "norm1"],
        "last": ["last"],
        "head": ["norm2", "out"],
    }


def test_a_masking_embedding_before_an_lstm():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Embedding(9, 4, mask_zero=True, name="words"),
            layers.LSTM(3, name="read"),
            layers.Dense(2),
        ]
    )
    assert names_of(model) == ["words", "read", "head"]


def test_convolutions_before_lstms():
    inputs = x = keras.Input((64, 4))
    for n in range(3):
        x = layers.Conv1D(4, 3, strides=2, name=f"listen{n}")(x)
    x = layers.LSTM(3, name="follow")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert names_of(model) == ["listen0", "listen1", "listen2", "follow", "head"]


# Transformers


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_a_plain_transformer_is_embeddings_and_blocks(norm_first):
    model = encoder(12, norm_first)
    assert names_of(model) == ["embeddings", *(f"block{n}" for n in range(1, 13)), "head"]
    found = layer_groups(model)
    sizes = [group.total_params for group in found[1:-1]]
    assert len(set(sizes[:-1])) == 1
    assert sizes[-1] - sizes[0] == (8 if norm_first else 0)  # the last one takes the last norm


class Attending(layers.Layer):
    """A transformer block as users write it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 2)
        self.norm = layers.LayerNormalization()
        self.dense = layers.Dense(4)

    def call(self, x):
        return self.dense(self.norm(x + self.attention(x, x)))


def test_transformer_blocks_written_as_layers_keep_their_names():
    inputs = keras.Input((6,))
    x = layers.LayerNormalization()(layers.Embedding(9, 4)(inputs))
    for n in range(10):
        x = Attending(name=f"attend_{n}")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert names_of(model) == ["embeddings", *(f"attend_{n}" for n in range(10)), "head"]


def test_a_residual_feed_forward_is_no_head():
    inputs = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    x = layers.Add()([x, feed_forward(x)])
    assert names_of(keras.Model(inputs, x)) == ["block1"]


def test_names_that_leave_the_attention_out_are_not_used():
    inputs = x = keras.Input((6, 4))
    for n in range(3):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 2)(x, x))
        y = layers.Dense(8, name=f"part{n}_layer{n}_up")(x)
        x = layers.LayerNormalization()(x + layers.Dense(4, name=f"part{n}_layer{n}_down")(y))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert names_of(model) == ["block1", "block2", "block3", "head"]


def test_convolutions_after_attention_are_no_part_of_its_block():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="before")(inputs)
    flat = layers.Reshape((64, 4))(x)
    flat = layers.Add()([flat, layers.MultiHeadAttention(1, 4)(flat, flat)])
    x = layers.Conv2D(4, 1, name="mix")(layers.Reshape((8, 8, 4))(flat))
    x = layers.Conv2D(4, 3, name="after")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    found = weighted(model)
    assert list(found) == ["before", "block1", "after", "head"]
    assert found["block1"][-1] == "mix"


# Convolutional networks that someone wrote


def plain_cnn(depth, strides=(1,)):
    inputs = x = keras.Input((None, None, 3))
    for n in range(depth):
        x = layers.Conv2D(2, 3, padding="same", strides=strides[n % len(strides)])(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def test_a_small_cnn_is_one_group_per_convolution():
    model = plain_cnn(3)
    assert contents(model)["group1"] == ["conv2d_1", "batch_normalization_1", "re_lu_1"]
    assert names_of(model) == ["group0", "group1", "group2", "head"]


def test_a_deep_cnn_is_one_group_per_resolution():
    model = plain_cnn(12, strides=(1, 1, 2))
    found = {name: len(layers) for name, layers in weighted(model).items()}
    assert found == {"stage1": 4, "stage2": 6, "stage3": 6, "stage4": 6, "stage5": 2, "head": 1}


def test_a_deep_cnn_of_one_resolution_stays_one_group_per_convolution():
    assert len(names_of(plain_cnn(12))) == 13


def test_a_unet_is_one_group_per_resolution_down_and_up():
    inputs = x = keras.Input((None, None, 1))
    skips = []
    for _ in range(3):
        x = layers.Conv2D(2, 3, padding="same")(layers.Conv2D(2, 3, padding="same")(x))
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.Conv2DTranspose(2, 2, strides=2)(x), skip])
        x = layers.Conv2D(2, 3, padding="same")(layers.Conv2D(2, 3, padding="same")(x))
    assert names_of(keras.Model(inputs, x)) == [f"stage{n}" for n in range(1, 6)]


class Residual(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(2, 3, padding="same")
        self.second = layers.Conv2D(2, 3, padding="same")

    def call(self, x):
        return x + self.second(self.first(x))


def test_composite_layers_are_groups_of_their_own():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="first")])
    for _ in range(3):
        model.add(Residual())
    model.add(layers.Flatten())
    model.add(layers.Dense(2))
    assert names_of(model) == ["first", "group1", "group2", "group3", "head"]


# Names that are the same in every build


def of_every_kind():
    """Convolutions, composite layers and recurrent layers that Keras names."""
    inputs = x = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(2, 3, padding="same")(x)
    for _ in range(3):
        x = Residual()(x)
    x = layers.Reshape((64, 2))(x)
    for _ in range(2):
        x = layers.LSTM(2, return_sequences=True)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def test_two_builds_of_an_architecture_have_the_same_names():
    first, second = of_every_kind(), of_every_kind()
    assert first.layers[1].name != second.layers[1].name
    expected = [*(f"group{n}" for n in range(6)), "head"]
    assert names_of(first) == names_of(second) == expected


def test_a_saved_model_keeps_its_names(tmp_path):
    model = plain_cnn(3)
    model.save(tmp_path / "model.keras")
    assert names_of(keras.models.load_model(tmp_path / "model.keras")) == names_of(model)


class Block(layers.Layer):
    """What Keras names like a label: `block`, `block_1`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(4)

    def call(self, x):
        return self.inside(x)


def test_the_numbers_of_keras_are_no_labels():
    inputs = x = keras.Input((6, 4))
    for _ in range(3):
        x = layers.LayerNormalization()(Block()(x))
    x = layers.LSTM(2, name="read")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert names_of(model) == ["group0", "group1", "group2", "read", "head"]


def test_a_group_named_by_position_knows_its_first_layer():
    model = plain_cnn(2)
    groups = layer_groups(model)
    named_by_position = {group.name: group.first_layer for group in groups}
    convolutions = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert named_by_position == {"group0": convolutions[0], "group1": convolutions[1], "head": None}


def test_the_first_layer_still_names_its_group(recurrent):
    model = recurrent()
    assert names_of(model) == ["group0", "group1", "group2", "head"]
    selected = [kf.policies.FreezeGroups(name).select(model) for name in ("group1", "lstm_1")]
    assert selected[0] == selected[1]
    previews = [
        kf.GradualUnfreeze({0: "head", 2: name}, rates={name: 0.5}).preview(model, epochs=3)
        for name in ("group2", "lstm_2")
    ]
    assert str(previews[0]) == str(previews[1])


def test_a_place_never_takes_the_name_of_something_else():
    inputs = keras.Input((6, 4))
    x = layers.LSTM(2, return_sequences=True, name="group1")(inputs)
    x = layers.LSTM(2, return_sequences=True)(x)
    x = layers.Dropout(0.1, name="group2")(x)
    x = layers.LSTM(2)(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert names_of(model) == ["group1", "group1_1", "group2_1", "head"]


# Heads


def test_in_an_mlp_only_the_last_layer_is_the_head():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    model.add(layers.Dense(3))
    model.add(layers.Dense(2))
    assert contents(model) == {
        "group0": ["dense", "batch_normalization"],
        "group1": ["dense_1"],
        "head": ["dense_2"],
    }


class Classifier(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(3)
        self.logits = layers.Dense(2)

    def call(self, x):
        return self.logits(self.hidden(x))


@pytest.mark.parametrize("sequences", [False, True])
def test_a_custom_layer_made_of_dense_layers_is_a_head_only_on_vectors(sequences):
    inputs = keras.Input((4, 3))
    x = layers.LSTM(3, return_sequences=sequences, name="read")(inputs)
    model = keras.Model(inputs, Classifier(name="classify")(x))
    assert names_of(model) == ["read", "classify" if sequences else "head"]


def test_a_single_layer_is_a_head():
    assert names_of(keras.Sequential([keras.Input((4,)), layers.Dense(2)])) == ["head"]


def test_without_dense_layers_at_the_end_there_is_no_head():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Conv2D(2, 3)])
    assert names_of(model) == ["group0", "group1"]


def test_a_layer_called_head_elsewhere_does_not_take_the_name():
    model = keras.Sequential(
        [keras.Input((4, 3)), layers.LSTM(3, name="head"), layers.Dense(2, name="top")]
    )
    assert contents(model) == {"head_1": ["head"], "head": ["top"]}


def test_several_task_heads_are_one_group():
    inputs = keras.Input((4,))
    trunk = layers.LSTM(3, name="trunk")(layers.Reshape((4, 1))(inputs))
    tasks = [layers.Dense(n, name=f"task{n}")(trunk) for n in (1, 2, 3)]
    found = contents(keras.Model(inputs, tasks))
    assert list(found) == ["trunk", "head"]
    assert sorted(found["head"]) == ["task1", "task2", "task3"]


def test_the_head_starts_where_tasks_of_any_kind_part():
    backbone = application("MobileNetV2", 32)
    boxes = layers.Conv2D(4, 3, padding="same", name="boxes1")(backbone.output)
    boxes = layers.Conv2D(4, 3, padding="same", name="boxes2")(boxes)
    kinds = layers.Conv2D(2, 3, padding="same", name="kinds")(backbone.output)
    model = keras.Model(backbone.input, [boxes, kinds])
    assert sorted(weighted(model)["head"]) == ["boxes1", "boxes2", "kinds"]


def test_a_feature_pyramid_has_no_task_heads():
    backbone = application("ResNet50", 32)
    taps = [backbone.get_layer(f"conv{n}_block1_out").output for n in (2, 3, 4, 5)]
    assert names_of(keras.Model(backbone.input, taps)) == CONVS[:-1]


# Several inputs, shared layers, subclassed models


def test_towers_are_ordered_by_their_distance_from_the_output():
    assert contents(image_and_text()) == {
        "look0": ["image", "look0", "pool0"],
        "look1": ["look1", "pool1"],
        "words": ["text", "words"],
        "look2": ["look2", "pool2", "flat", "join"],
        "read": ["read"],
        "head": ["merged", "age", "species"],
    }


def test_no_tower_comes_after_what_reads_from_it():
    image, text = keras.Input((4, 3), name="image"), keras.Input((4, 3), name="text")
    x = layers.LSTM(3, name="look", return_sequences=True)(image)
    x = layers.LSTM(3, name="see", return_sequences=True)(x)
    y = layers.Dense(3, name="block1_a")(text)
    side = layers.Dense(3, name="block1_side")(y)  # this output is nearer than any other
    y = layers.Dense(3, name="block2_a")(y)
    z = layers.LSTM(3, name="join")(layers.Concatenate()([x, y]))
    model = keras.Model([image, text], [layers.Dense(2, name="out")(z), side])
    groups = layer_groups(model)
    check_order(model, groups)
    assert [group.name for group in groups] == ["look", "see", "block1", "block2", "join", "head"]


def test_siamese_towers_are_grouped_once():
    tower = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(2, 3, name="b"),
            layers.Flatten(name="flat"),
        ]
    )
    left, right = keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    both = layers.Subtract(name="difference")([tower(left), tower(right)])
    model = keras.Model([left, right], layers.Dense(1, name="same")(both))
    assert contents(model) == {
        "a": ["left", "right", "a", "norm"],
        "b": ["b", "flat", "difference"],
        "head": ["same"],
    }


def test_a_layer_that_returns_later_belongs_where_it_comes_first():
    inputs = keras.Input((6,))
    words = layers.Embedding(9, 4, name="words")
    x = layers.LSTM(4, name="read", return_sequences=True)(words(inputs))
    x = layers.LSTM(4, name="again")(layers.Add()([x, words(inputs)]))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert weighted(model)["words"] == ["words"]
    assert names_of(model) == ["words", "read", "again", "head"]


class Subclassed(keras.Model):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.norm = layers.BatchNormalization(name="norm")
        self.out = layers.Dense(2, name="out")
        self.temperature = self.add_weight(shape=(), name="temperature")

    def call(self, x):
        return self.out(self.norm(self.pool(self.backbone(x)))) / self.temperature


def test_a_subclassed_model_is_grouped_like_its_layers():
    backbone = application("VGG16", 32)
    model = Subclassed(backbone)
    model(keras.ops.zeros((1, 32, 32, 3)))
    found = layer_groups(model)
    check_partition(model, found)
    assert [group.name for group in found] == [*BLOCKS, "head"]
    assert [layer.name for layer in found[-1].layers] == ["norm", "out"]
    assert any(v is model.temperature for v in found[0].variables)


def test_a_sequential_of_sequentials_is_grouped_like_its_layers():
    flat = [layers.Conv2D(2, 3, name="a"), layers.Conv2D(2, 3, name="b"), layers.Flatten(name="f")]
    head = keras.Sequential(
        [layers.Dense(3, name="c"), keras.Sequential([layers.Dense(2, name="d")])]
    )
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.Sequential(flat), head])
    assert contents(model) == {"a": ["a"], "b": ["b", "f"], "head": ["c", "d"]}


def test_weights_of_an_unused_output_follow_their_neighbour():
    inputs = keras.Input((4, 3))
    x = layers.LSTM(3, name="read")(inputs)
    backbone = keras.Model(inputs, [x, layers.Dense(2, name="unused")(x)])
    outer = keras.Input((4, 3))
    model = keras.Model(outer, layers.Dense(2, name="out")(backbone(outer)[0]))
    found = contents(model)
    assert found["head"] == ["out"]
    assert "unused" in found["read"]


# Any graph


KINDS = ["dense", "block", "norm", "relu", "add", "shared", "nested"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99)), max_size=14
)


def random_model(inputs, steps, outputs):
    """Layers that read one or two earlier tensors; some are shared, some nested."""
    tensors = list(inputs)
    shared = [layers.Dense(4, name=f"shared{n}") for n in range(2)]
    for n, (kind, first, second) in enumerate(steps):
        x, y = tensors[first % len(tensors)], tensors[second % len(tensors)]
        if kind in ("dense", "block"):
            x = layers.Dense(4, name=f"{kind}{n // 2}_{n}")(x)
        elif kind == "norm":
            x = layers.BatchNormalization(name=f"norm{n}")(x)
        elif kind == "relu":
            x = layers.ReLU(name=f"relu{n}")(x)
        elif kind == "add":
            x = layers.Add(name=f"add{n}")([x, y])
        elif kind == "shared":
            x = shared[second % 2](x)
        else:
            inner = keras.Input((4,))
            y = layers.Dense(4, name=f"inner{n}")(layers.ReLU(name=f"inner_relu{n}")(inner))
            x = keras.Model(inner, y, name=f"nested{n}")(x)
        tensors.append(x)
    ends = [tensors[number % len(tensors)] for number in outputs]
    last = layers.Add(name="meet")([*inputs, *ends, tensors[-1]])
    return keras.Model(inputs, [layers.Dense(2, name="last")(last), *ends])


def check_order(model, groups):
    """No weight is in a later group than a weight that reads from it."""
    group_of = {id(layer): n for n, group in enumerate(groups) for layer in group.layers}
    latest = []
    for call in call_graph(model):
        before = max((latest[i] for i in call.inputs), default=0)
        own = group_of[id(call.layer)] if call.owns_weights else before
        assert before <= own
        latest.append(max(before, own))


@hypothesis.given(st.integers(1, 3), STEPS, st.lists(st.integers(0, 99), max_size=2))
def test_any_graph_is_partitioned_in_order(inputs, steps, outputs):
    keras.backend.clear_session(free_memory=False)
    given = [keras.Input((4,), name=f"in{n}") for n in range(inputs)]
    model = random_model(given, steps, outputs)
    groups = layer_groups(model)
    check_partition(model, groups)
    check_order(model, groups)
    assert "last" in [layer.name for layer in groups[-1].layers]

    outer = [keras.Input((4,)) for _ in given]
    nested = keras.Model(outer, model(outer if inputs > 1 else outer[0]))
    assert without_inputs(layer_groups(nested)) == without_inputs(groups)


# Groups that the user gives


def small():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(2, 3, name="block1_conv"),
            layers.ReLU(name="block1_relu"),
            layers.Conv2D(2, 3, name="block2_conv"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="dense"),
            layers.Dense(2, name="top"),
        ],
        name="small",
    )


EXPECTED = {
    "block1": ["block1_conv", "block1_relu"],
    "block2": ["block2_conv", "flat"],
    "top": ["dense", "top"],
}


@pytest.mark.parametrize(
    "given",
    [
        {"block1": "^block1", "block2": "^block2", "top": "^(dense|top)$"},
        {"top": ["dense", "top"], "block2": ["block2_conv"], "block1": ["block1_conv"]},
        {"block1": "block1", "block2": ["block2_conv"], "top": "dense|top"},
        lambda layer: layer.name[:6] if layer.name.startswith("block") else "top",
    ],
    ids=["patterns", "lists, in any order", "mixed", "callable"],
)
def test_given_groups(given):
    model = small()
    found = contents(model, given)
    assert {name: [n for n in found[name] if n != "flat"] for name in found} == {
        name: [n for n in EXPECTED[name] if n != "flat"] for name in EXPECTED
    }
    assert list(found) == list(EXPECTED)
    assert "flat" in found["block2"]


def test_given_groups_in_a_plain_sequence_get_names():
    given = ["^block1_.*", ["block2_conv"], ["dense", "top"]]
    assert names_of(small(), given) == ["block1", "block2_conv", "group2"]


def test_a_weightless_layer_can_be_given_to_a_group():
    given = {"low": "block", "top": ["flat", "dense", "top"]}
    assert contents(small(), given)["top"] == ["flat", "dense", "top"]


def test_a_nested_model_can_be_given_by_its_name():
    backbone = application("VGG16", 32)
    inputs = keras.Input((32, 32, 3))
    model = with_head(inputs, backbone(inputs))
    found = layer_groups(model, {"backbone": ["vgg16"], "new": "^new_"})
    assert [group.name for group in found] == ["backbone", "new"]
    assert found[0].total_params == backbone.count_params()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": "blok1"}, r"'blok1', which matches no layer of model 'small'"),
        ({"a": ["block1_con"]}, r"Did you mean 'block1_conv' or 'block2_conv'"),
        ({"a": "flat"}, r"matches only layers without weights of model 'small'"),
        ({"a": "block", "b": "block1", "c": "."}, r"'a' and 'b' both match layer 'block1_conv'"),
        (["block"], r"leaves out dense, top of model 'small'"),
        (lambda layer: None, r"leaves out block1_conv, block2_conv, dense, top"),
        (lambda layer: 3, r"must return a group name.*Received: 3 for layer"),
        (lambda layer: "", r"must return a group name"),
        ({"a": "("}, r"valid regular expressions. Received: '\('"),
        ("block", r"must be a mapping .*Received: groups='block'"),
        ([], r"must be a mapping .*Received: groups=\[\]"),
        (7, r"must be a mapping .*Received: groups=7"),
        ([3], r"must hold regular expressions or lists of layer names. Received: 3"),
        ([["a", 3]], r"must hold regular expressions or lists of layer names"),
        ([[]], r"must hold regular expressions or lists of layer names. Received: \[\]"),
    ],
)
def test_wrong_groups(given, message):
    with pytest.raises(ValueError, match=message) as raised:
        layer_groups(small(), given)
    assert str(raised.value).startswith("layer_groups(groups=...) must")


class OnlyItsOwn(keras.Model):
    """A model that holds a weight and no layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shift = self.add_weight(shape=(2,), name="shift")
        self.built = True


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([layers.Dense(2)], name="raw"), r"must be built.*'raw'"),
        (keras.Sequential([keras.Input((3,)), layers.ReLU()], name="dry"), r"have weights.*'dry'"),
        (OnlyItsOwn(name="bare"), r"have weights.*'bare', whose layers have none"),
        (layers.Dense(2), r"must be a keras.Model"),
        ("vgg16", r"must be a keras.Model. Received: model='vgg16'"),
    ],
    ids=["unbuilt", "weightless", "no layers", "layer", "name"],
)
def test_wrong_models(model, message):
    error = ValueError if isinstance(model, keras.Model) else TypeError
    with pytest.raises(error, match=message):
        layer_groups(model)


# What groups show


def test_groups_show_what_they_are():
    groups = layer_groups(small(), {"low": "block", "upper": "dense|top"})
    assert repr(groups[0]) == "LayerGroup(name='low', layers=4, total_params=58)"
    assert groups[0].label == "low"
    assert groups[1]._repr_html_() == (
        "<details><summary><b>upper</b>: 2 layers, 107 parameters</summary>dense, top</details>"
    )


def test_groups_named_by_position_show_their_first_layer():
    first, _ = layer_groups(
        keras.Sequential([keras.Input((8, 4)), layers.LSTM(3), layers.Dense(2)])
    )
    name = first.first_layer
    assert repr(first) == (
        f"LayerGroup(name='group0', first_layer={name!r}, layers=1, total_params=96)"
    )
    assert first.label == f"group0 ({name})"
    assert f"<b>group0 ({name})</b>: 1 layer, 96 parameters" in first._repr_html_()


def test_a_tuple_of_groups_in_a_notebook_has_a_line_for_each(plain):
    pretty = pytest.importorskip("IPython.lib.pretty")
    lines = pretty.pretty(layer_groups(plain())).splitlines()
    assert [line.strip(" (").split(",")[0] for line in lines] == [
        "LayerGroup(name='low'",
        "LayerGroup(name='middle'",
        "LayerGroup(name='head'",
    ]
    assert max(map(len, lines)) < 100


# Parts of layers


def test_blocks_of_a_stack_are_groups():
    model = stack_model()
    groups = layer_groups(model)
    check_partition(model, groups)
    blocks = ["deep_0", "deep_1", "deep_2"]
    assert [group.name for group in groups] == ["patches", *blocks, "head"]
    assert [x.name for x in groups[3].layers if x.weights] == ["deep_2", "last_norm"]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_stack_is_a_backbone_by_itself_or_by_its_name(depth):
    model = stack_model()
    backbone = [model.get_layer("stack"), "stack"][depth]
    groups = layer_groups(model, backbone=backbone)
    assert [group.name for group in groups] == ["deep_0", "deep_1", "deep_2", "head"]
    assert {x.name for x in groups[-1].layers if x.weights} == {"patches", "new"}


#: Specifications of groups by what `freeze` knows by name, and the layers with weights they hold.
BY_PARTS = {
    "a stack": ({"low": ["patches"], "middle": ["stack"], "head": ["new"]}, None),
    "parts of a block": (
        {"low": ["patches", "attention", "norm"], "middle": ["up", "last_norm"], "head": ["new"]},
        ["attention", "norm"] * 3,
    ),
    "a block and parts": (
        {
            "low": ["patches", "deep_0"],
            "middle": ["deep_1", "deep_2", "last_norm"],
            "h": ["new"],
        },
        ["deep_0"],
    ),
    "inside attention": (
        {
            "low": ["patches", "query", "key"],
            "rest": ["value", "attention_output", "norm", "up", "last_norm", "new"],
        },
        ["query", "key"] * 3,
    ),
}


@pytest.mark.parametrize(("given", "in_low"), BY_PARTS.values(), ids=BY_PARTS)
@pytest.mark.at_commit("a block and parts")
def test_groups_take_every_name_that_freeze_takes(given, in_low):
    model = stack_model()
    for names in given.values():
        kf.freeze(stack_model(), layers=names[:1], batch_norm="follow")
    groups = layer_groups(model, given)
    assert [group.name for group in groups] == list(given)
    weights = [id(v) for group in groups for v in group.variables]
    assert len(weights) == len(set(weights))
    assert set(weights) == {id(v) for v in model.weights}
    assert [x.name for x in groups[0].layers if x.weights] == ["patches", *(in_low or [])]


def test_blocks_whatever_their_attention_is_called():
    inputs = x = keras.Input((3,))
    x = layers.Embedding(9, 4, name="tokens")(x)
    for n in range(2):
        x = Linear(name=f"linear_{n}")(x)
    x = AttentionEncoder(name="attends")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    found = [[x.name for x in g.layers if x.weights] for g in layer_groups(model)[:-1]]
    assert found == [["tokens"], ["linear_0"], ["linear_1"], ["attends"]]


def test_a_block_of_residual_steps_is_no_stack():
    inputs = x = keras.Input((3, 4))
    for n in range(2):
        x = OfResiduals(name=f"deep_{n}")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert names_of(model) == ["deep_0", "deep_1", "head"]


def test_a_stack_in_a_wrapper_is_a_backbone_by_its_names():
    stack = stack_model().get_layer("stack")
    inputs = keras.Input((2, 3, 4))
    x = layers.TimeDistributed(stack, name="each")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="new")(layers.Flatten()(x)))
    by_names = pickle.loads(pickle.dumps(kf.GradualUnfreeze(backbone=stack).backbone))
    for backbone in (stack, by_names, "stack"):
        assert [x.name for x in layer_groups(model, backbone=backbone)[-1].layers][-1] == "new"


def test_what_is_assumed_to_be_pretrained_counts_divided_layers():
    model = stack_model(blocks=1)
    given = {"low": ["patches", "attention"], "head": ["norm", "up", "last_norm", "new"]}
    part = picture_of(model, given).pretrained
    assert [x.name for x in part.layers if x.weights] == ["patches", "stack"]
    assert max_depth(picture_of(model, given), "layer") == 2


def test_a_name_of_a_whole_layer_opens_no_other():
    inputs = x = keras.Input((3, 4))
    x = stack_model(blocks=1).get_layer("stack")(x)
    model = keras.Model(inputs, layers.Dense(2, name="norm")(x))
    groups = layer_groups(model, {"body": "^stack", "head": ["norm"]})
    assert [x.name for x in groups[0].layers if x.weights] == ["stack"]


def test_parts_of_bidirectional_layers():
    inputs = keras.Input((5, 3))
    x = layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="new")(x))
    groups = layer_groups(model, {"low": ["forward_lstm"], "head": ["backward_lstm", "new"]})
    assert [group.total_params for group in groups] == [48, 48 + 10]


def test_parts_of_a_layer_with_weights_of_its_own_are_refused():
    model = stack_model(has_own_weight=True)
    with pytest.raises(ValueError, match=r"deep_0, inside layer 'stack'. Name 'stack'"):
        layer_groups(model, {"low": ["patches", "deep_0"], "head": ["new"]})


def test_groups_of_parts_with_a_backbone():
    model = stack_model(blocks=1)
    parts = {"low": ["patches"], "deep": ["attention", "norm", "up", "last_norm"], "head": ["new"]}
    groups = layer_groups(model, parts, backbone=["patches", "stack"])
    assert [group.name for group in groups] == ["low", "deep", "head"]
    with pytest.raises(ValueError, match="not mix pretrained and new"):
        layer_groups(model, {"low": ["patches"], "a": ["stack", "new"]}, backbone="patches|stack")
