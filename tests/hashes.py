"""The hashes that a device computes, by their definition."""

import numpy as np

from keras_freeze.prefix_cache.device_keys import BLOCK, LANES


def by_definition(row):
    """Compute the hash of some bytes in whole numbers of any size."""
    values = list(row)
    for level in range(9):
        rng = np.random.default_rng(level)
        factors = rng.integers(0, 2**32, (LANES, BLOCK), dtype=np.uint32).tolist()
        blocks = [values[n : n + BLOCK] for n in range(0, len(values), BLOCK)]
        sums = [
            sum(a * b for a, b in zip(block, own, strict=False)) % 2**32
            for block in blocks
            for own in factors
        ]
        values = list(b"".join(one.to_bytes(4, "little") for one in sums))
        if len(blocks) == 1:
            return values
    raise AssertionError("it does not end")
