"""An LSTM stack that learned to read Python, moved to syntax colouring from few examples.

The text is the source of Python's own standard library, which is there wherever Python is.
First the stack learns to predict the next character. Then its layers, with a new head, say
of every character which kind of token it belongs to, as an editor that colours code does.
The answers come from Python's `tokenize`, and no module is in two parts of the data.
"""

from __future__ import annotations

import dataclasses
import io
import keyword
import sysconfig
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

MODULES = {
    "train": ("argparse", "ast", "difflib", "tarfile"),
    "validation": ("fractions", "imaplib", "mailbox", "optparse"),
    "test": ("ipaddress", "pdb", "smtplib", "turtle"),
}
"""The modules of the second task. The first task reads the others."""

KINDS = ("space", "comment", "string", "number", "operator", "keyword", "name")
"""The kinds of tokens, in the order of the labels."""

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""The characters that are distinguished, numbered from 1. Number 0 stands for all others."""

LENGTH = 64
"""Characters in a snippet."""

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Snippets:
    """Snippets of source text with an answer for every character.

    Attributes:
        x: Array `(n, 64)` of int64. Numbers of the characters.
        y: Array `(n, 64)` of int64. First task: the next character. Second: index into `KINDS`.
    """

    x: Numbers
    y: Numbers


@dataclasses.dataclass(frozen=True, eq=False)
class SnippetData:
    """The three parts of the second task: `train`, `validation` and `test`."""

    train: Snippets
    validation: Snippets
    test: Snippets


def reading(seed: int = 0, snippets: int = 12_000) -> Snippets:
    """Cut snippets for the first task: which character comes next?

    Args:
        seed: Int. Which snippets.
        snippets: Int. How many, from anywhere in the modules that `MODULES` does not name.

    Returns:
        `Snippets` whose `y` is the next character at every place.

    Example:
        >>> text = reading(snippets=100)
        >>> text.x.shape, bool((text.x[:, 1:] == text.y[:, :-1]).all())
        ((100, 64), True)
    """
    kept_out = {name for names in MODULES.values() for name in names}
    names = [p.stem for p in sorted(_library().glob("*.py")) if p.stem not in kept_out]
    text = encode("".join(_source(name) for name in names))
    starts = np.random.default_rng(seed).integers(len(text) - LENGTH, size=snippets)
    return Snippets(_cut(text, starts), _cut(text, starts + 1))


def load(seed: int = 0, *, train: int = 48, validation: int = 256, test: int = 256) -> SnippetData:
    """Cut snippets for the second task: which kind of token is every character in?

    Args:
        seed: Int. Which snippets; the same seed and Python give the same arrays.
        train: Int. Training snippets. Each starts at the beginning of a line.
        validation: Int. Validation snippets, from other modules.
        test: Int. Test snippets, from yet other modules.

    Returns:
        A `SnippetData`.

    Example:
        >>> load(train=4).train.y.shape
        (4, 64)
    """
    rng = np.random.default_rng(seed)
    counts = {"train": train, "validation": validation, "test": test}
    return SnippetData(**{part: _part(MODULES[part], rng, n) for part, n in counts.items()})


def encode(text: str) -> Numbers:
    """Turn characters into numbers, 0 for all that `ALPHABET` does not hold.

    Example:
        >>> encode("a = é").tolist()
        [67, 2, 31, 2, 0]
    """
    numbers = {character: number for number, character in enumerate(ALPHABET, start=1)}
    return np.array([numbers.get(character, 0) for character in text], np.int64)


def token_kinds(source: str) -> Numbers:
    """Name the kind of token that every character of a program belongs to.

    Args:
        source: String. A whole Python program.

    Returns:
        Array of int64 as long as `source`: indices into `KINDS`.

    Example:
        >>> [KINDS[kind] for kind in token_kinds("if x: # y")]
        ... # doctest: +NORMALIZE_WHITESPACE
        ['keyword', 'keyword', 'space', 'name', 'operator', 'space', 'comment', 'comment',
         'comment']
    """
    line_starts = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
    kinds = np.zeros(len(source), np.int64)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, end = (int(line_starts[row - 1]) + column for row, column in token[2:4])
        kinds[start:end] = KINDS.index(_kind(token))
    return kinds


def reader(seed: int = 0, units: int = 96) -> Any:
    """Build the stack for the first task: two LSTMs and a next-character head.

    Args:
        seed: Int. Seed of the first weights.
        units: Int. Width of each LSTM.

    Returns:
        A compiled `keras.Model`.

    Example:
        >>> reader().output_shape
        (None, 64, 97)
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((LENGTH,), dtype="int32", name="characters")
    x = keras.layers.Embedding(len(ALPHABET) + 1, 32, name="embedding")(inputs)
    x = keras.layers.LSTM(units, return_sequences=True, name="lstm_1")(x)
    x = keras.layers.LSTM(units, return_sequences=True, name="lstm_2")(x)
    x = keras.layers.Dense(len(ALPHABET) + 1, "softmax", name="next_character")(x)
    model = keras.Model(inputs, x, name="reader")
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def pretrained(seed: int = 0, snippets: int = 12_000, epochs: int = 2) -> tuple[Any, float]:
    """Train the reader on the standard library's text; about half a minute on a CPU.

    Args:
        seed: Int. Seed of weights and text.
        snippets: Int. Snippets read.
        epochs: Int. How often.

    Returns:
        Tuple `(model, accuracy)`: the `reader` and the share of next characters that it got
        right during the last epoch.
    """
    text = reading(seed, snippets)
    model = reader(seed)
    history = model.fit(text.x, text.y, batch_size=64, epochs=epochs, verbose=0)
    return model, history.history["accuracy"][-1]


def colourer(model: Any, seed: int = 0) -> Any:
    """Copy a reader's stack and put a new head on it that tells the `KINDS` apart.

    Args:
        model: `keras.Model`. The `reader`; it is left as it is.
        seed: Int. Seed of the head's first weights.

    Returns:
        A `keras.Model`: embedding, two LSTMs and a dense head for every character.

    Example:
        >>> [layer.name for layer in colourer(reader()).layers]
        ['characters', 'embedding', 'lstm_1', 'lstm_2', 'hidden', 'kinds']
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    first = [keras.initializers.GlorotUniform(seed=2 * seed + layer) for layer in range(2)]
    x = copy.get_layer("lstm_2").output
    x = keras.layers.Dense(64, "relu", kernel_initializer=first[0], name="hidden")(x)
    x = keras.layers.Dense(len(KINDS), "softmax", kernel_initializer=first[1], name="kinds")(x)
    return keras.Model(copy.input, x, name="colourer")


def _part(names: Sequence[str], rng: np.random.Generator, count: int) -> Snippets:
    source = "".join(_source(name) for name in names)
    line_starts = 1 + np.flatnonzero(np.array(list(source)) == "\n")
    starts = rng.choice(line_starts[line_starts < len(source) - LENGTH], count, replace=False)
    kinds = np.concatenate([token_kinds(_source(name)) for name in names])
    return Snippets(_cut(encode(source), starts), _cut(kinds, starts))


def _kind(token: tokenize.TokenInfo) -> str:
    name = tokenize.tok_name[token.type]
    if name == "NAME":
        return "keyword" if keyword.iskeyword(token.string) else "name"
    if "STRING" in name:  # from Python 3.12 on also FSTRING_START, _MIDDLE and _END
        return "string"
    return {"COMMENT": "comment", "NUMBER": "number", "OP": "operator"}.get(name, "space")


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _source(name: str) -> str:
    return (_library() / f"{name}.py").read_text(encoding="utf-8", errors="replace")


def _cut(numbers: Numbers, starts: Numbers) -> Numbers:
    return numbers[starts[:, None] + np.arange(LENGTH)]
