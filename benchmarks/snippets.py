"""Text of Python's standard library: some to pretrain on, and snippets to classify.

A snippet is 64 pieces of source text that break off within a statement. The question is what
kind of statement that is. No module is in two parts of the data, and none of the packages that
the snippets come from is in the text for pretraining.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import io
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "xml",
)
"""Where the snippets come from: packages with enough text in at least three modules."""

KINDS = {
    "docstring": (),
    "call": (),
    "comment": (),
    "import": (ast.Import, ast.ImportFrom),
    "definition": (ast.FunctionDef, ast.AsyncFunctionDef),
    "condition": (ast.If, ast.While),
    "loop": (ast.For, ast.AsyncFor),
    "return": (ast.Return,),
    "raise": (ast.Raise,),
    "assignment": (ast.Assign, ast.AugAssign, ast.AnnAssign),
}
"""The classes. Of statements with a body only the head counts."""

PARTS = ("train", "validation", "test")
LENGTH = 64
VOCABULARY = 2000
HELD_OUT = 80  # validation snippets a class, and as many for the test
SEEN = 3  # pieces of the last statement that a snippet shows at least

# Tests and tables; what a distribution adds; what is not there in every Python.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload"}
_LEFT_OUT |= {"encodings", "pydoc_data", "distutils", "lib2to3"}
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|\n|[^\sA-Za-z0-9]")

Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Snippets:
    """Snippets and their classes.

    Attributes:
        x: Array `(n, 64)` of int64. Numbers of the pieces.
        y: Array `(n,)` of int64. Indices into `KINDS`.
    """

    x: Numbers
    y: Numbers


def pieces(source: str) -> list[str]:
    """Split source text into parts of words, numbers, signs and line ends, in lower case.

    >>> pieces("def readLine(self, HTTPServer):\\n")
    ['def', 'read', 'line', '(', 'self', ',', 'http', 'server', ')', ':', '\\n']
    """
    return [piece.lower() for piece in _PIECE.findall(source)]


def vocabulary(text: Iterable[str], size: int = VOCABULARY) -> dict[str, int]:
    """Number the most frequent pieces from 1. Number 0 is left for all others."""
    frequent = collections.Counter(text).most_common(size)
    return {piece: number for number, (piece, _) in enumerate(frequent, start=1)}


def encode(text: Iterable[str], numbers: dict[str, int]) -> Numbers:
    """Turn pieces into their numbers."""
    return np.array([numbers.get(piece, 0) for piece in text], np.int64)


def kinds(source: str) -> Numbers:
    """Say of every piece in which kind of statement it is, -1 for those of no class.

    >>> list(KINDS)[kinds("x = f(1)")[2]]
    'assignment'
    """
    of_character = np.full(len(source), -1)
    for start, end, kind in (*_statements(source), *_comments(source)):
        of_character[start:end] = kind
    return np.array([of_character[p.start()] for p in _PIECE.finditer(source)], np.int64)


def breaks(of_piece: Numbers) -> Numbers:
    """Return where snippets may end: within a statement, after its first few pieces.

    >>> breaks(np.array([1] * 64 + [2, 2, 2, 2, 1])).tolist()
    [67]
    """
    ends = np.arange(LENGTH, len(of_piece))
    same = [of_piece[ends] == of_piece[ends - n] for n in range(1, SEEN + 1)]
    return ends[np.all(same, axis=0) & (of_piece[ends] >= 0)]


def deal(modules: Sequence[tuple[str, int]]) -> dict[str, list[str]]:
    """Deal the modules of a package out to the parts, in turn and the largest first.

    >>> deal([("a", 10), ("b", 40), ("c", 30), ("d", 20)])
    {'train': ['b', 'a'], 'validation': ['c'], 'test': ['d']}
    """
    names = [name for name, _ in sorted(modules, key=lambda module: (-module[1], module[0]))]
    return {part: names[turn :: len(PARTS)] for turn, part in enumerate(PARTS)}


def pretraining_text() -> list[str]:
    """Return the pieces of all modules but those of `PACKAGES`."""
    library = _library()
    files = [p for p in _modules(library) if p.relative_to(library).parts[0] not in PACKAGES]
    return [piece for file in files for piece in pieces(_read(file))]


def sources(part: str) -> list[str]:
    """Return the modules that belong to a part of the data."""
    found = []
    for package in PACKAGES:
        texts = {str(file): _read(file) for file in _modules(_library() / package)}
        dealt = deal([(name, len(text)) for name, text in texts.items()])
        found += [texts[name] for name in dealt[part]]
    return found


class Task:
    """Within what kind of statement does a snippet break off?

    Validation and test snippets are the same for all seeds.

    Args:
        numbers: Mapping from piece to number, by `vocabulary`.
    """

    def __init__(self, numbers: dict[str, int]):
        self._train = _cut("train", numbers)
        self.validation = _draw(_cut("validation", numbers), 0, HELD_OUT)
        self.test = _draw(_cut("test", numbers), 0, HELD_OUT)

    def train(self, seed: int, per_class: int) -> Snippets:
        """Draw training snippets."""
        return _draw(self._train, seed, per_class)


def _cut(part: str, numbers: dict[str, int]) -> Snippets:
    x, y = [], []
    for source in sources(part):
        text, of_piece = encode(pieces(source), numbers), kinds(source)
        ends = breaks(of_piece)
        x.append(text[ends[:, None] + np.arange(-LENGTH, 0)])
        y.append(of_piece[ends])
    return Snippets(np.concatenate(x), np.concatenate(y))


def _draw(cut: Snippets, seed: int, per_class: int) -> Snippets:
    rng = np.random.default_rng(seed)
    by_class = [np.flatnonzero(cut.y == kind) for kind in range(len(KINDS))]
    drawn = np.concatenate([rng.choice(own, per_class, replace=False) for own in by_class])
    return Snippets(cut.x[drawn], cut.y[drawn])


def _statements(source: str) -> Iterator[tuple[int, int, int]]:
    lines = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
    for node in ast.walk(ast.parse(source)):  # outer statements first
        if isinstance(node, ast.stmt):
            start, end = lines[node.lineno - 1] + node.col_offset, _end(node, lines)
            yield start, end, -1
            if body := getattr(node, "body", None):
                end = lines[body[0].lineno - 1] + body[0].col_offset
            yield start, end, _kind(node)


def _end(node: ast.stmt, lines: npt.NDArray[np.int64]) -> int:
    return int(lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0))


def _kind(node: ast.stmt) -> int:
    names = list(KINDS)
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call):
            return names.index("call")
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return names.index("docstring") if is_text else -1
    return next((n for n, types in enumerate(KINDS.values()) if isinstance(node, types)), -1)


def _comments(source: str) -> Iterator[tuple[int, int, int]]:
    lines = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start, end = (int(lines[row - 1]) + column for row, column in token[2:4])
            yield start, end, list(KINDS).index("comment")


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules(folder: Path) -> list[Path]:
    library = _library()
    files = (p for p in folder.rglob("*.py") if not p.name.startswith("_sysconfigdata"))
    return sorted(p for p in files if not _LEFT_OUT & set(p.relative_to(library).parts[:-1]))


def _read(file: Path) -> str:
    """Read a module, other than ASCII as question marks: `ast` counts in bytes."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return text.replace("\f", " ").encode("ascii", "replace").decode()
