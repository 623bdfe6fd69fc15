"""What known backbones expect of their inputs, and whether some values are such. Pure.

A backbone that was trained on inputs of one range learns little from those of another, and nothing
fails: this is what users search for longest. The families are those of `keras.applications`, as
their `preprocess_input` scales images. A range is judged by the extremes of a batch, and only
where no image of the right range could have them; what could be either is left alone.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

# ImageNet's mean pixel, by which images are centred: red, green, blue.
_MEAN = (123.68, 116.779, 103.939)
# By how much an extreme may be beyond what is possible: resized images overshoot a little.
_SLACK = 0.05
# Images of a range fill at least this part of it.
_FILLED = 0.1
# Images whose values are all within this part of the range show nothing.
_FLAT = 0.02
# Values this many times as far apart as they should be are not even of the right size.
_FAR = 10


@dataclasses.dataclass(frozen=True)
class Range:
    """How images are scaled.

    Attributes:
        name: Str, as `keras.applications` calls it; `"raw"` for not scaled, `"unit"` for 0 to 1.
        words: Str.
        lowest: The least possible value of each channel.
        highest: The largest possible value of each channel.
        is_reversed: Bool, whether channels are blue, green, red.
    """

    name: str
    words: str
    lowest: tuple[float, float, float]
    highest: tuple[float, float, float]
    is_reversed: bool = False

    @property
    def size(self) -> float:
        """The distance from the lowest to the highest value."""
        return max(self.highest) - min(self.lowest)


def _torch(value: float) -> tuple[float, float, float]:
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    first, second, third = ((value - m) / d for m, d in zip(means, deviations, strict=True))
    return first, second, third


def _caffe(value: float) -> tuple[float, float, float]:
    red, green, blue = (value - mean for mean in _MEAN)
    return blue, green, red


RAW = Range("raw", "0 to 255", (0.0,) * 3, (255.0,) * 3)
UNIT = Range("unit", "0 to 1", (0.0,) * 3, (1.0,) * 3)
TF = Range("tf", "-1 to 1", (-1.0,) * 3, (1.0,) * 3)
TORCH = Range(
    "torch",
    "0 to 1, minus ImageNet's mean, over its standard deviation",
    _torch(0.0),
    _torch(1.0),
)
CAFFE = Range(
    "caffe",
    "blue, green, red, 0 to 255, minus ImageNet's mean pixel",
    _caffe(0.0),
    _caffe(255.0),
    is_reversed=True,
)


_TWICE = Range("twice", "", (-247.4,) * 3, (47.4,) * 3)  # of some channel, at most


@dataclasses.dataclass(frozen=True)
class Family:
    """Backbones that expect the same of their inputs.

    Attributes:
        module: Str, the module of `keras.applications`.
        layers: Names of layers that no family before it has all of; a `*` stands for anything.
        expects: Their range.
        own: What the backbone does itself before its first convolution, the last step first:
            `"R"` for `Rescaling`, `"N"` for `Normalization`. Of several the longest that is there.
        at_convolution: The ranges that its first convolution may get; none where only what
            stands before the backbone's own steps can be judged.
    """

    module: str
    layers: tuple[str, ...]
    expects: Range
    own: tuple[str, ...] = ()
    at_convolution: tuple[Range, ...] = ()


#: The first that fits is taken.
FAMILIES = (
    Family("vgg16", ("block1_conv1", "block5_conv3"), CAFFE),
    Family("resnet_v2", ("conv1_pad", "conv2_block1_preact_bn"), TF),
    Family("densenet", ("conv2_block1_0_bn", "pool2_pool"), TORCH),
    Family("resnet", ("conv1_pad", "conv2_block1_0_conv"), CAFFE),
    Family("xception", ("block1_conv1", "block14_sepconv2"), TF),
    Family("mobilenet", ("conv1", "conv_dw_1", "conv_pw_13"), TF),
    Family("mobilenet_v2", ("Conv1", "expanded_conv_depthwise", "block_16_project"), TF),
    Family("mobilenet_v3", ("conv", "expanded_conv_*", "conv_1"), RAW, ("R",), (TF,)),
    Family("inception_resnet_v2", ("mixed_5b", "conv_7b"), TF),
    Family("inception_v3", ("mixed0", "mixed10"), TF),
    Family("nasnet", ("stem_conv1", "normal_conv_1_*"), TF),
    Family("efficientnet", ("stem_conv", "block1a_dwconv"), RAW, ("RNR", "NR")),
    Family("efficientnet_v2", ("stem_conv", "block1a_project_conv"), RAW, ("NR", "R"), (TF, TORCH)),
    Family("convnext", ("*_stem_conv", "*_stem_layernorm"), RAW, ("N",)),
)


def family_of(names: Collection[str]) -> Family | None:
    """Return the family of a backbone by the names of its layers; None if it is of none.

    Example:
        >>> family_of(["block1_conv1", "block1_conv2", "block5_conv3"]).module
        'vgg16'
    """
    for family in FAMILIES:
        if all(any(_fits(pattern, name) for name in names) for pattern in family.layers):
            return family
    return None


def _fits(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


@dataclasses.dataclass(frozen=True)
class Extremes:
    """The extremes of a batch of images, by channel.

    Attributes:
        lowest: Tuple of float, one for each channel.
        highest: Tuple of float.
        are_whole: Bool, whether all values are whole numbers, as those of pixels are.
    """

    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    are_whole: bool = False

    @classmethod
    def of(cls, images: np.ndarray[Any, Any]) -> Extremes:
        """Return those of images of shape `(samples, height, width, channels)`."""
        values = np.asarray(images, "float64").reshape(-1, images.shape[-1])
        lowest, highest = values.min(axis=0), values.max(axis=0)
        return cls(tuple(lowest), tuple(highest), bool((values == np.floor(values)).all()))

    @property
    def words(self) -> str:
        """The lowest and the highest value, for texts."""
        return f"{min(self.lowest):.3g} to {max(self.highest):.3g}"


def mismatch(seen: Extremes, expected: Range) -> str | None:
    """Return what inputs look like that can't be of the expected range; None if they can be.

    Args:
        seen: The extremes at the backbone's input.
        expected: Its range.

    Returns:
        Str, such as `"0 to 255"`, or None.

    Example:
        >>> mismatch(Extremes((0.0,) * 3, (254.0,) * 3), TF)
        '0 to 255'
        >>> mismatch(Extremes((-0.9,) * 3, (0.8,) * 3), TF)
    """
    lowest, highest = min(seen.lowest), max(seen.highest)
    if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest == highest:
        return None
    if _is_within(seen, expected):
        spans = [high - low for low, high in zip(seen.lowest, seen.highest, strict=True)]
        is_flat = 0 < max(spans) < _FLAT * expected.size and expected is not RAW
        flat = "nearly one value, as of images that were scaled before" if is_flat else None
        return _smaller(seen, expected) or flat
    if expected.name in ("caffe", "torch") and _is_within(seen, _turned(expected)):
        return "the same with channels in the other order"
    for known in (UNIT, TF, TORCH, RAW, CAFFE):
        fills = highest - lowest > _FILLED * known.size
        if known is not expected and fills and _is_within(seen, known, slack=0.01):
            return known.words
    if expected is CAFFE and _is_within(seen, _TWICE):
        return "images from which the mean was subtracted twice"
    # Standardized images go beyond what scaled ones can, and may still be right.
    return "another range" if highest - lowest > _FAR * expected.size else None


def in_pixels(words: str, images: str = "x") -> str | None:
    """Return the code that makes pixels of 0 to 255 of images; None if it isn't known.

    Args:
        words: What the images look like, as `mismatch` says it.
        images: The code for them.

    Example:
        >>> in_pixels("0 to 1")
        '255 * x'
    """
    codes = {
        RAW.words: images,
        UNIT.words: f"255 * {images}",
        TF.words: f"127.5 * ({images} + 1)",
    }
    return codes.get(words)


def _is_within(seen: Extremes, known: Range, slack: float = _SLACK) -> bool:
    """Tell whether no value is beyond what is possible in a range, by more than a part of it."""
    slack *= known.size
    if len(seen.lowest) != len(known.lowest):  # grey images, or more channels
        low, high = min(known.lowest), max(known.highest)
        return min(seen.lowest) >= low - slack and max(seen.highest) <= high + slack
    lows = all(s >= k - slack for s, k in zip(seen.lowest, known.lowest, strict=True))
    return lows and all(s <= k + slack for s, k in zip(seen.highest, known.highest, strict=True))


def _turned(known: Range) -> Range:
    return dataclasses.replace(known, lowest=known.lowest[::-1], highest=known.highest[::-1])


def _smaller(seen: Extremes, expected: Range) -> str | None:
    """Return what inputs look like that are possible, but hardly those of the expected range."""
    lowest, highest = min(seen.lowest), max(seen.highest)
    if expected.name in ("raw", "caffe"):
        if highest - lowest <= 6 and max(abs(lowest), abs(highest)) <= 3:
            return _of_small(lowest, highest)
        # What is centred by the mean pixel is never whole.
        return RAW.words if expected.name == "caffe" and lowest >= 0 and seen.are_whole else None
    # Black is exactly 0 from 0 to 1, and no pixel is in the other ranges.
    if lowest == 0 and highest <= 1 + _SLACK:
        return UNIT.words
    touches_both = -1.001 <= lowest <= -0.98 and 0.98 <= highest <= 1.001
    return TF.words if expected.name == "torch" and touches_both else None


def _of_small(lowest: float, highest: float) -> str:
    if lowest >= 0:
        return UNIT.words if highest <= 1 + _SLACK else TORCH.words
    return TF.words if lowest >= -1.001 and highest <= 1.001 else TORCH.words


def steps_before(chain: Sequence[str], family: Family) -> tuple[int, Range | None]:
    """Return how many steps before its first convolution are a backbone's own, and its range.

    Args:
        chain: The steps before the first convolution, the last one first: `"R"`, `"N"`.
        family: The family.

    Returns:
        Tuple of the number and the range that is expected before them, None if not known.

    Example:
        >>> efficientnet = family_of(["stem_conv", "block1a_dwconv"])
        >>> steps, expected = steps_before("NRR", efficientnet)  # one Rescaling too many
        >>> steps, expected.words
        (2, '0 to 255')
    """
    letters = "".join(chain)
    own = next((own for own in family.own if letters.startswith(own)), None)
    if own is not None:
        return len(own), family.expects
    return 0, None if family.own else family.expects
