"""The memory of a training step in words: rows under a report, and what makes most of it."""

from __future__ import annotations

from collections.abc import Iterator

from keras_freeze.memory import StepMemory
from keras_freeze.reports.sizes import readable_bytes

_NOT_KNOWN = "not known"


def memory_rows(memory: StepMemory) -> list[tuple[str, str]]:
    """Return names and sizes, a title and its empty line first."""
    rows = [("", ""), (f"memory of a step, batch size {memory.batch_size}:", "")]
    rows.append(("weights", readable_bytes(memory.weight_bytes)))
    rows.append(("gradients", readable_bytes(memory.gradient_bytes)))
    rows.append(("optimizer state", _size(memory.optimizer_bytes)))
    rows.append(("activations kept", _size(memory.activation_bytes)))
    rows.append(("computed at a time", _size(memory.working_bytes)))
    rows.append(("estimate", in_short(memory)))
    if memory.measured is not None:
        rows.append(("XLA, measured", readable_bytes(memory.measured.total_bytes)))
    return rows


def memory_notes(memory: StepMemory) -> tuple[str, ...]:
    """Return what the report says below its table, a sentence each."""
    return tuple(_notes(memory))


def in_short(memory: StepMemory) -> str:
    """Return the whole estimate; what is known of it, with "at least", where a part is not."""
    total = readable_bytes(memory.known_bytes)
    return total if memory.total_bytes is not None else f"at least {total}"


def _size(size: int | None) -> str:
    return _NOT_KNOWN if size is None else readable_bytes(size)


def _notes(memory: StepMemory) -> Iterator[str]:
    yield _diagnosis(memory)
    if memory.served is not None:
        yield _of_the_cache(memory)
    if "optimizer" in memory.not_known:
        yield f"The optimizer's state is not known: {memory.not_known['optimizer']}."
    shown = memory.doubts[:_MAX_DOUBTS]
    for doubt in shown:
        yield f"{doubt}."
    if len(memory.doubts) > len(shown):
        yield f"{len(memory.doubts) - len(shown)} more are counted so."


#: So many layers that are not counted exactly are named.
_MAX_DOUBTS = 3


def _diagnosis(memory: StepMemory) -> str:
    """Say what makes most of the memory, and what reduces that."""
    if "activations" in memory.not_known:
        return f"Activations are not known: {memory.not_known['activations']}."
    total = max(1, memory.known_bytes)
    kept, working = memory.activation_bytes or 0, memory.working_bytes or 0
    activations = kept + working
    state = memory.gradient_bytes + (memory.optimizer_bytes or 0)
    largest = max(activations, state, memory.weight_bytes)
    share = f"{100 * largest // total} % of it"
    if largest == activations and kept >= working:
        above = f"all above {memory.lowest!r}, the lowest layer that trains, keep theirs"
        frozen = memory.frozen_bytes / max(1, memory.weight_bytes)
        if memory.served is None and frozen > _MUCH:
            above += f", although {100 * frozen:.0f} % of the weights are frozen"
        advice = "Freeze from the input up, use the prefix cache, or take smaller batches."
        return f"Activations are {share}: {above}. {advice}"
    if largest == activations:
        advice = "only smaller batches reduce them."
        if memory.served is not None:
            advice = "use the prefix cache, or take smaller batches."
        return f"Activations are {share}, most of them while one layer is computed: {advice}"
    if largest == state:
        return f"Gradients and optimizer state are {share}: freezing any weights reduces them."
    return f"Weights are {share}, and freezing does not change them."


#: From this part of the weights on, who has frozen them expects that memory was saved.
_MUCH = 0.1


def _of_the_cache(memory: StepMemory) -> str:
    served = memory.served
    if served is None:
        return ""
    saved = (memory.working_bytes or 0) - served.working_bytes
    step = f"a step takes {readable_bytes(saved)} less" if saved else "a step takes as much"
    return (
        f"With the prefix cache the layers up to {served.up_to} are not computed in a step: "
        f"{step}, and {readable_bytes(served.feature_bytes)} a sample are kept."
    )
