"""Patches of the real photographs that scikit-image brings along: a small texture task.

Which photograph is a patch from? Patches are grey and each has the same brightness and
contrast, so that only texture tells them apart. Training and validation patches come from
the left half of every photograph and test patches from the right half; no two patches of
a data set share a pixel.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Files of scikit-image's `data` folder, one per class: photographs of things, through
cameras, microscopes and telescopes. They are part of its wheel; nothing is downloaded."""

CLASSES = tuple(Path(name).stem for name in PHOTOGRAPHS)
"""Names of the 15 classes, in the order of the labels."""

CONTRAST = 58.0  # standard deviation of ImageNet's pixels, on the scale of 0 to 255
MIN_CONTRAST = 2.0  # below it a patch is plain black or white, with nothing to learn

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """Patches of one part of the data, with the photograph that each was cut from.

    Attributes:
        x: Array `(n, size, size, 3)` of float32, ready for VGG16: grey, three equal channels,
            each patch with mean 0 and standard deviation `CONTRAST`. The mean pixel that
            VGG16's preprocessing subtracts is thereby subtracted already.
        y: Array `(n,)` of int64. Index into `CLASSES`.
        corners: Array `(n, 2)` of int64. Row and column of each patch's top left pixel.
    """

    x: Array
    y: Labels
    corners: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class PhotographData:
    """The three parts of the data: `train`, `validation` and `test`."""

    train: Patches
    validation: Patches
    test: Patches


def load(
    seed: int = 0, *, train: int = 8, validation: int = 8, test: int = 16, size: int = 48
) -> PhotographData:
    """Cut patches out of the photographs.

    Each half of a photograph is laid out with a grid of patches that do not overlap, shifted
    at random. Plain black or white patches are left out and the others dealt out at random.

    Args:
        seed: Int. Which grid and which patches; the same seed gives the same arrays.
        train: Int. Training patches per class, from left halves.
        validation: Int. Validation patches per class, from left halves.
        test: Int. Test patches per class, from right halves.
        size: Int. Height and width of a patch in pixels.

    Returns:
        A `PhotographData`. The patches of a part are ordered by class.

    Raises:
        ValueError: if a photograph holds fewer patches than requested.
        ModuleNotFoundError: if scikit-image is not installed.

    Example:
        >>> data = load(seed=0, train=4)
        >>> data.train.x.shape, data.test.x.shape
        ((60, 48, 48, 3), (240, 48, 48, 3))
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[tuple[Array, int, tuple[int, int]]]] = {
        "train": [],
        "validation": [],
        "test": [],
    }
    for label, name in enumerate(PHOTOGRAPHS):
        picture = read_grey(name)
        left = _deal(picture, "left", size, train + validation, rng, name)
        right = _deal(picture, "right", size, test, rng, name)
        chosen = {"train": left[:train], "validation": left[train:], "test": right}
        for part, corners in chosen.items():
            parts[part] += [(_normalise(_cut(picture, c, size)), label, c) for c in corners]
    return PhotographData(**{part: _stack(rows) for part, rows in parts.items()})


def read_grey(name: str) -> Array:
    """Read one of scikit-image's photographs as grey values from 0 to 255.

    Args:
        name: String. A file of `PHOTOGRAPHS`.

    Returns:
        Array `(height, width)` of float32.
    """
    from skimage import color, io

    picture = io.imread(_data_folder() / name)
    grey = picture if picture.ndim == 2 else color.rgb2gray(picture) * 255
    return np.asarray(grey, np.float32)


def _data_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            'The photographs come with scikit-image. Install it: pip install "keras_freeze[demo]"'
        )
    return Path(spec.origin).parent / "data"


def _deal(
    picture: Array, half: str, size: int, count: int, rng: np.random.Generator, name: str
) -> list[tuple[int, int]]:
    """Choose `count` patches of one half at random, none overlapping another."""
    width = picture.shape[1]
    start, stop = (0, width // 2) if half == "left" else (width // 2, width)
    corners = [
        corner
        for corner in _grid(picture.shape[0], start, stop, size, rng)
        if _cut(picture, corner, size).std() >= MIN_CONTRAST
    ]
    if len(corners) < count:
        raise ValueError(
            f"load(size={size}) must leave enough patches in every half. Received: {count} patches "
            f"per class, but the {half} half of {name} holds {len(corners)}. Ask for fewer or "
            f"smaller patches."
        )
    return [corners[i] for i in rng.permutation(len(corners))[:count]]


def _grid(
    height: int, start: int, stop: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield the corners of a grid of patches, shifted by what the half has left over."""
    row_shift = rng.integers(height % size + 1)
    column_shift = rng.integers((stop - start) % size + 1)
    for row in range(int(row_shift), height - size + 1, size):
        for column in range(start + int(column_shift), stop - size + 1, size):
            yield row, column


def _cut(picture: Array, corner: tuple[int, int], size: int) -> Array:
    row, column = corner
    return picture[row : row + size, column : column + size]


def _normalise(patch: Array) -> Array:
    """Give a patch mean 0 and the standard deviation `CONTRAST`, and three channels."""
    even = (patch - patch.mean()) / patch.std() * CONTRAST
    return np.repeat(even[..., None], 3, axis=-1)


def _stack(rows: list[tuple[Array, int, tuple[int, int]]]) -> Patches:
    patches, labels, corners = zip(*rows, strict=True)
    return Patches(np.stack(patches), np.array(labels, np.int64), np.array(corners, np.int64))
