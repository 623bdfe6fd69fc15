"""Atoms: cuts only where one tensor crosses, towers apart."""

import keras
from keras import layers

from keras_freeze.groups.atoms import chains
from keras_freeze.groups.call_graph import call_graph


def atoms_of(model):
    return [names(atom) for atom in chains(call_graph(model)).trunk if atom.weighted]


def towers_of(model):
    towers = chains(call_graph(model)).towers
    return [[n for atom in tower for n in names(atom)] for tower in towers]


def names(atom):
    return [layer.name for layer in atom.weighted]


def residual(x, name):
    y = layers.Dense(4, name=f"{name}_a")(x)
    return layers.Add()([x, layers.Dense(4, name=f"{name}_b")(y)])


def test_a_residual_block_is_one_atom():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="stem")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="out")(residual(residual(x, "r1"), "r2")))
    assert atoms_of(model) == [["stem"], ["r1_a", "r1_b"], ["r2_a", "r2_b"], ["out"]]


def test_a_skip_from_an_input_without_weights_divides_nothing():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.Dense(4, name="b")(x)
    model = keras.Model(inputs, layers.Dense(1, name="c")(layers.Concatenate()([x, inputs])))
    assert atoms_of(model) == [["a"], ["b"], ["c"]]


def test_every_call_is_in_one_atom():
    inputs = keras.Input((4,))
    other = keras.Input((4,))
    x = residual(layers.Dense(4)(inputs), "r")
    y = layers.Dense(4)(layers.Dense(4)(other))
    calls = call_graph(keras.Model([inputs, other], layers.Concatenate()([x, y])))
    found = chains(calls)
    atoms = [*found.trunk, *(atom for tower in found.towers for atom in tower)]
    assert sorted(p for atom in atoms for p in atom.positions) == list(range(len(calls)))


def test_towers_stand_apart_from_the_trunk():
    image, text = keras.Input((8, 8, 1)), keras.Input((5,))
    x = image
    for n in range(3):
        x = layers.Conv2D(2, 3, padding="same", name=f"conv{n}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    y = layers.LSTM(2, name="lstm")(layers.Embedding(5, 2, name="embedding")(text))
    z = layers.Dense(2, name="join")(layers.Concatenate()([x, y]))
    model = keras.Model([image, text], z)
    assert atoms_of(model) == [["conv0"], ["conv1"], ["conv2"], ["join"]]
    assert towers_of(model) == [["embedding", "lstm"]]


def test_branches_from_one_input_are_no_towers():
    inputs = keras.Input((3,))
    x = layers.Dense(2, name="a2")(layers.Dense(2, name="a1")(inputs))
    y = layers.Dense(2, name="b2")(layers.Dense(2, name="b1")(inputs))
    model = keras.Model(inputs, layers.Concatenate()([x, y]))
    assert towers_of(model) == []
    assert [sorted(atom) for atom in atoms_of(model)] == [["a1"], ["a2", "b1", "b2"]]


def test_embeddings_that_meet_at_once_are_no_towers():
    tokens, segments = keras.Input((5,)), keras.Input((5,))
    x = layers.Add()(
        [
            layers.Embedding(5, 2, name="token")(tokens),
            layers.Embedding(2, 2, name="kind")(segments),
        ]
    )
    model = keras.Model([tokens, segments], layers.LSTM(2, name="lstm")(x))
    assert towers_of(model) == []
    assert atoms_of(model) == [["token"], ["kind"], ["lstm"]]


def test_lone_embeddings_beside_a_deep_tower_are_one_tower():
    numbers = keras.Input((3,))
    kinds = [keras.Input((1,)) for _ in range(3)]
    x = layers.Dense(2, name="b")(layers.Dense(2, name="a")(numbers))
    embedded = [
        layers.Flatten()(layers.Embedding(4, 2, name=f"e{n}")(k)) for n, k in enumerate(kinds)
    ]
    out = layers.Dense(1, name="out")(layers.Concatenate()([x, *embedded]))
    model = keras.Model([numbers, *kinds], out)
    assert towers_of(model) == [["e0", "e1", "e2"]]
    assert atoms_of(model) == [["a"], ["b"], ["out"]]


def test_towers_that_never_join_stand_apart():
    left, right = keras.Input((3,)), keras.Input((3,))
    x = layers.Dense(2, name="l2")(layers.Dense(2, name="l1")(left))
    y = layers.Dense(2, name="r3")(layers.Dense(2, name="r2")(layers.Dense(2, name="r1")(right)))
    model = keras.Model([left, right], [x, y])
    assert atoms_of(model) == [["r1"], ["r2"], ["r3"]]
    assert towers_of(model) == [["l1", "l2"]]


def unet(depth, block):
    inputs = x = keras.Input((None, None, 1))
    skips = []
    for n in range(depth):
        x = block(x, f"down{n}")
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, "bottom")
    for n in reversed(range(depth)):
        x = layers.Conv2DTranspose(2, 2, strides=2, name=f"raise{n}")(x)
        x = block(layers.Concatenate()([x, skips[n]]), f"up{n}")
    return keras.Model(inputs, x)


def residual_conv(x, name):
    x = layers.Conv2D(2, 3, padding="same", name=f"{name}_1")(x)
    y = layers.Conv2D(2, 3, padding="same", name=f"{name}_2")(x)
    return layers.Add()([x, layers.Conv2D(2, 3, padding="same", name=f"{name}_3")(y)])


def test_a_big_atom_is_cut_where_the_fewest_tensors_cross():
    found = atoms_of(unet(4, residual_conv))
    assert ["down1_2", "down1_3"] in found
    assert ["up2_2", "up2_3"] in found
    assert len(found) > 10
    for atom in found:  # no residual block is cut in half
        heads = {name[:-2] for name in atom if name.endswith("_2")}
        tails = {name[:-2] for name in atom if name.endswith("_3")}
        assert heads == tails


def test_recurrent_layers_get_atoms_of_their_own():
    inputs = keras.Input((5, 3))
    both = [
        layers.LSTM(2, name="forth")(inputs),
        layers.LSTM(2, go_backwards=True, name="back")(inputs),
    ]
    model = keras.Model(inputs, layers.Concatenate()(both))
    assert sorted(map(tuple, atoms_of(model))) == [("back",), ("forth",)]
