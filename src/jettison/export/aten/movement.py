"""ATen calls that only move data: most cost nothing, see `Builder.view`."""

from __future__ import annotations

import sys

import numpy as np

from ..builder import IMAGE, Builder, Value
from .call import Call, as_axis, as_value

LOWEST = float(np.finfo(np.float32).min)  # a file holds finite numbers only; stands for −∞


def same(b: Builder, call: Call) -> Value:
    """No effect on values: dropout in evaluation, contiguous, clone, a conversion to float32 …"""
    return call.value_of_axes()


def view(b: Builder, call: Call) -> Value:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: all are told by the shape of the result."""
    return b.view(call.value_of_axes(), call.shape)


def permute(b: Builder, call: Call) -> Value:
    return _permuted(b, call, call["dims"])


def transpose(b: Builder, call: Call) -> Value:
    rank = len(call.value("self").axes) + 1
    dims = list(range(rank))
    i, j = call["dim0"] % rank, call["dim1"] % rank
    dims[i], dims[j] = dims[j], dims[i]
    return _permuted(b, call, dims)


def _permuted(b: Builder, call: Call, dims: list[int]) -> Value:
    x = call.value("self")
    if dims[0] != 0:
        raise b.fail(f"{call.op}: moves the batch axis, which must stay the first")
    return Value(x.name, tuple(x.axes[as_axis(b, call.op, d, len(x.axes))] for d in dims[1:]))


def cat(b: Builder, call: Call) -> Value:
    values = [as_value(b, call.op, v) for v in call["tensors"]]
    return _concat(b, values, as_axis(b, call.op, call["dim"], len(values[0].axes)))


def stack(b: Builder, call: Call) -> Value:
    values = [as_value(b, call.op, v) for v in call["tensors"]]
    axis = as_axis(b, call.op, call["dim"], len(call.shape))
    return _concat(b, [b.view(v, (*call.shape[:axis], 1, *call.shape[axis + 1 :])) for v in values], axis)


def _concat(b: Builder, values: list[Value], axis: int) -> Value:
    axes = values[0].axes
    return Value(b.add("concat", [b.arrange(v, axes) for v in values], {"axis": axes[axis]}), axes)


def slice_(b: Builder, call: Call) -> Value:
    """x[start : end : step] along one axis; the whole batch axis is allowed."""
    x, step = call.value("self"), call["step"]
    rank = len(x.axes)
    if call["dim"] % (rank + 1) == 0 and not call["start"] and call["end"] in (None, sys.maxsize) and step == 1:
        return x
    axis = call.axis("dim")
    start, stop, _ = slice(call["start"], call["end"], step).indices(b.shape(x)[axis])
    return _part(b, x, axis, start, stop, step)


def select(b: Builder, call: Call) -> Value:
    """x[index] along one axis, which disappears."""
    axis, index = call.axis("dim"), call["index"]
    x = call.value("self")
    index %= b.shape(x)[axis]
    return b.view(_part(b, x, axis, index, index + 1), call.shape)


def narrow(b: Builder, call: Call) -> Value:
    axis = call.axis("dim")
    start = call["start"] % b.shape(call.value("self"))[axis]
    return _part(b, call.value("self"), axis, start, start + call["length"])


def split(b: Builder, call: Call) -> tuple[Value, ...]:
    """split, split_with_sizes, chunk: consecutive parts, told by the shapes of the results."""
    x, axis = call.value("self"), call.axis("dim")
    ends = np.cumsum([shape[axis] for shape in call.shapes]).tolist()
    return tuple(_part(b, x, axis, start, end) for start, end in zip([0, *ends], ends))


def unbind(b: Builder, call: Call) -> tuple[Value, ...]:
    x, axis = call.value("self"), call.axis("dim")
    return tuple(b.view(_part(b, x, axis, i, i + 1), shape) for i, shape in enumerate(call.shapes))


def _part(b: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    if (start, stop, step) == (0, b.shape(x)[axis], 1):
        return x
    return Value(b.add("slice", [x.name], {"axis": x.axes[axis], "start": start, "stop": stop, "step": step}), x.axes)


def pad(b: Builder, call: Call) -> Value:
    """aten.pad and constant_pad_nd: (before, after) pairs from the last axis on; a negative one cuts."""
    x, mode = call.value("self"), call.args.get("mode", "constant")
    pairs = [tuple(call["pad"][i : i + 2]) for i in range(0, len(call["pad"]), 2)]
    if mode != "constant":
        raise b.fail(f"pad: mode {mode!r} is not supported; pad with a constant")
    if len(pairs) > len(x.axes):
        raise b.fail("pad: pads the batch axis, which must stay as it is")
    grow = [(0, 0)] * len(x.axes)  # by stored axis
    for i, (before, after) in enumerate(pairs):
        axis = len(x.axes) - 1 - i
        size = b.shape(x)[axis]
        x = _part(b, x, axis, max(0, -before), size - max(0, -after))
        grow[x.axes[axis]] = (max(0, before), max(0, after))
    if not any(map(any, grow)):
        return x
    value = max(float(call.args.get("value") or 0.0), LOWEST)
    return Value(b.add("pad", [x.name], {"pads": tuple(grow), "value": value}), x.axes)


def expand(b: Builder, call: Call) -> Value:
    """Repeats axes of size 1. Arithmetic repeats by itself and takes the small tensor (`Builder.expanded`)."""
    x = call.value("self")
    small = b.view(x, (1,) * (len(call.shape) - len(x.axes)) + b.shape(x))
    if b.shape(small) == call.shape:
        return small
    if len(call.shape) != 3 or b.shape(small)[0] != call.shape[0]:
        raise b.fail(f"expand: {b.shape(x)} to {call.shape} is not supported; only rows and columns of an image can be repeated")
    size = b.shape(small)[1:]
    attrs = {"mode": "nearest", "size": call.shape[1:], "scale": tuple(i / o for i, o in zip(size, call.shape[1:])), "align_corners": False}
    big = Value(b.add("upsample", [b.image(small)], attrs), IMAGE)
    b.expanded[big.name] = small
    return big


def channel_shuffle(b: Builder, call: Call) -> Value:
    return Value(b.add("channel_shuffle", [b.image(call.value("self"))], {"groups": call["groups"]}), IMAGE)


def pixel_shuffle(b: Builder, call: Call) -> Value:
    """(c·f², h, w) -> (c, h·f, w·f)."""
    x, f = call.value("self"), call["upscale_factor"]
    c, h, w = b.shape(x)
    x = b.view(x, (c // f**2, f, f, h, w))
    return b.view(Value(x.name, tuple(x.axes[i] for i in (0, 3, 1, 4, 2))), call.shape)


def pixel_unshuffle(b: Builder, call: Call) -> Value:
    """(c, h·f, w·f) -> (c·f², h, w)."""
    x, f = call.value("self"), call["downscale_factor"]
    c, h, w = b.shape(x)
    x = b.view(x, (c, h // f, f, w // f, f))
    return b.view(Value(x.name, tuple(x.axes[i] for i in (0, 2, 4, 1, 3))), call.shape)
