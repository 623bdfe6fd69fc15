"""Sizes in bytes, as people read them."""

from __future__ import annotations


def readable_bytes(size: float) -> str:
    """Return a size as `model.summary()` writes it.

    Example:
        >>> readable_bytes(17_927_370 * 4)
        '68.39 MB'
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TB"
