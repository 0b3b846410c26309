"""The grammar of legal graphs. `check` runs after every pass and on every file that is loaded.

`KINDS` is the one table of op kinds: how many inputs, which constants, which attributes, and the
function that gives the output shape. `jettison.reference` says what each kind computes.
To add a kind: one row here, one function in `reference.py`, one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .errors import FormatError, GraphError
from .formats import ELEMENTS
from .graph import DTYPES, VERSION, Graph, Op, TensorSpec, weight_shape, window_count

ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish", "hardsigmoid", "gelu", "gelu_tanh", "sigmoid", "tanh", "leaky_relu")
LAYOUTS = ("nchw", "plain")
WEIGHTED = ("conv", "linear")
IMAGE_CHANNELS = 4  # grey, RGB, RGB + alpha: a convolution of no more input channels reads the image
CLAMPS = ("none", "relu", "relu6")  # the activations of quantized ops, besides the table of "act"
SCALES = (1e-30, 1e30)  # of quantized tensors; what lies outside is surely a damaged file
FLOAT_MAX = float(np.finfo(np.float32).max)  # attributes become float32; NaN fails the comparison too
MAX_ELEMENTS = 1 << 31  # per sample and tensor; larger ones are surely a damaged file

Shape = tuple[int, ...]


class _Bad(Exception):
    """A violation found by a row's function; `check` adds where."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: inputs (min, max), constants by role, attributes by name, output shape.

    quantized: what u8 inputs may give: () nothing, the kind takes f32 only; "same": u8 of the input's scale;
    "u8", "f32": of any scale, as `jettison.quantized` defines.
    """

    inputs: tuple[int, int]
    attrs: Mapping[str, Callable[[Any], bool]]
    shape: Callable[[list[Shape], Mapping[str, Any]], Shape | None]
    params: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()


def _int(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def _ints(count: int | None, low: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, (list, tuple)) and (count is None or len(v) == count) and all(_int(x) and low <= x < 1 << 31 for x in v)


def _nat(low: int) -> Callable[[Any], bool]:
    return lambda v: _int(v) and low <= v < 1 << 31


def _float(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= FLOAT_MAX


def _bool(v: Any) -> bool:
    return isinstance(v, bool)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda v: v in names


def _pairs(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and all(_ints(2, 0)(x) for x in v)


def _floats2(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and len(v) == 2 and all(_float(x) and x > 0 for x in v)


def _need(ok: bool, what: str) -> None:
    if not ok:
        raise _Bad(what)


def _image(x: Shape) -> None:
    _need(len(x) == 3, f"needs an image (h, w, c), got shape {x}")


def _windows(x: Shape, kernel: Any, stride: Any, pad: Any, dilation: Any = (1, 1)) -> tuple[int, int]:
    t, l, b, r = pad
    p = window_count(x[0], t + b, kernel[0], stride[0], dilation[0])
    q = window_count(x[1], l + r, kernel[1], stride[1], dilation[1])
    _need(p >= 1 and q >= 1, f"kernel {tuple(kernel)} is larger than the padded input {x[:2]}")
    return p, q


def _conv(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    x = xs[0]
    _image(x)
    _need(x[2] % a["groups"] == 0, f"{x[2]} input channels are not divisible by {a['groups']} groups")
    _need(a["k"] % a["groups"] == 0, f"{a['k']} output channels are not divisible by {a['groups']} groups")
    out = (*_windows(x, a["kernel"], a["stride"], a["pad"], a["dilation"]), a["k"])
    _need(len(xs) < 2 or xs[1] == out, f"residual has shape {xs[-1]}, the output {out}")
    return out


def _linear(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    out = (*xs[0][:-1], a["k"])
    _need(len(xs) < 2 or xs[1] == out, f"residual has shape {xs[-1]}, the output {out}")
    return out


def _pool(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _image(xs[0])
    _need(all(padded < taps for padded, taps in zip(a["pad"], (*a["kernel"], *a["kernel"]))), "padding must be smaller than the window")
    _need(all(count <= padded for count, padded in zip(a.get("count_pad", ()), a["pad"])), "count_pad must not exceed pad")
    return (*_windows(xs[0], a["kernel"], a["stride"], a["pad"]), xs[0][2])


def _adaptive(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _image(xs[0])
    return (*a["size"], xs[0][2])


def _mean(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    x, axes = xs[0], a["axes"]
    _need(len(set(axes)) == len(axes) > 0 and max(axes) < len(x), f"axes {axes} do not fit shape {x}")
    return tuple(1 if i in axes else d for i, d in enumerate(x) if a["keepdims"] or i not in axes) or (1,)


def _broadcast(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    x, y = xs
    _need(len(x) == len(y) and all(d == e or e == 1 for d, e in zip(x, y)), f"second operand {y} does not broadcast to {x}")
    return x


def _same(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    return xs[0]


def _softmax(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _need(a["axis"] == len(xs[0]) - 1, f"softmax runs over the last axis, got axis {a['axis']} of {xs[0]}")
    return xs[0]


def _concat(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    axis, x = a["axis"], xs[0]
    _need(axis < len(x), f"axis {axis} does not fit shape {x}")
    for y in xs:
        _need(
            len(y) == len(x) and all(d == e or i == axis for i, (d, e) in enumerate(zip(x, y))), f"shapes {xs} differ outside axis {axis}"
        )
    return (*x[:axis], sum(y[axis] for y in xs), *x[axis + 1 :])


def _slice(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    x, axis = xs[0], a["axis"]
    _need(axis < len(x) and a["start"] < a["stop"] <= x[axis], f"slice {a['start']}:{a['stop']} of axis {axis} does not fit {x}")
    return (*x[:axis], -(-(a["stop"] - a["start"]) // a["step"]), *x[axis + 1 :])


def _pad(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _need(len(a["pads"]) == len(xs[0]), f"needs one (before, after) pair for each of {len(xs[0])} axes")
    return tuple(b + d + e for d, (b, e) in zip(xs[0], a["pads"]))


def _upsample(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _image(xs[0])
    return (*a["size"], xs[0][2])


def _shuffle(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _need(xs[0][-1] % a["groups"] == 0, f"{xs[0][-1]} channels are not divisible by {a['groups']} groups")
    return xs[0]


def _reshape(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _need(prod(a["shape"]) == prod(xs[0]), f"{xs[0]} has another number of elements than {tuple(a['shape'])}")
    return tuple(a["shape"])


def _transpose(xs: list[Shape], a: Mapping[str, Any]) -> Shape:
    _need(sorted(a["perm"]) == list(range(len(xs[0]))), f"perm {a['perm']} does not fit {xs[0]}")
    return tuple(xs[0][i] for i in a["perm"])


_ACT = {"act": _one_of(*ACTIVATIONS), "alpha": _float}  # alpha: slope of leaky_relu, else 0.0
_WINDOW = {"kernel": _ints(2, 1), "stride": _ints(2, 1), "pad": _ints(4, 0)}

KINDS: dict[str, Kind] = {
    # act(conv(x, weight) + bias + residual); weight (k, r, s, c / groups); pad with zeros
    "conv": Kind(
        (1, 2),
        {"k": _nat(1), "groups": _nat(1), "dilation": _ints(2, 1), **_WINDOW, **_ACT},
        _conv,
        ("weight",),
        ("bias",),
        quantized=("u8", "f32"),
    ),
    # act(x · weightᵀ + bias + residual) over the last axis; weight (k, 1, 1, c)
    "linear": Kind((1, 2), {"k": _nat(1), **_ACT}, _linear, ("weight",), ("bias",), quantized=("u8", "f32")),
    # u8 from f32: clamp(rint(x / scale) + zero, 0, 255) with the output tensor's scale and zero; and back
    "quantize": Kind((1, 1), {}, _same),
    "dequantize": Kind((1, 1), {}, _same, quantized=("f32",)),
    # maximum over each window; padding never wins
    "max_pool": Kind((1, 1), _WINDOW, _pool, quantized=("same",)),
    # sum over the window / positions of it inside the image grown by count_pad (zeros: padding not counted)
    "avg_pool": Kind((1, 1), {**_WINDOW, "count_pad": _ints(4, 0)}, _pool, quantized=("u8",)),
    # output i averages rows ⌊i·h/p⌋ … ⌈(i+1)·h/p⌉ − 1, columns alike
    "adaptive_avg_pool": Kind((1, 1), {"size": _ints(2, 1)}, _adaptive, quantized=("u8",)),
    "mean": Kind((1, 1), {"axes": _ints(None, 0), "keepdims": _bool}, _mean, quantized=("u8",)),
    # act(x + y), act(x · y); y may have 1 where x has more
    "add": Kind((2, 2), _ACT, _broadcast, quantized=("u8",)),
    "mul": Kind((2, 2), _ACT, _broadcast, quantized=("u8",)),
    # act(x · scale + shift), constants over the last axis, shape (c,)
    "affine": Kind((1, 1), _ACT, _same, ("scale", "shift")),
    "act": Kind((1, 1), _ACT, _same, quantized=("u8",)),
    "softmax": Kind((1, 1), {"axis": _nat(0)}, _softmax),
    # (x − mean) / √(var + eps) · weight + bias over the last axis
    "layer_norm": Kind((1, 1), {"eps": _float}, _same, ("weight", "bias")),
    "concat": Kind((1, 1 << 12), {"axis": _nat(0)}, _concat, quantized=("u8",)),
    "slice": Kind((1, 1), {"axis": _nat(0), "start": _nat(0), "stop": _nat(1), "step": _nat(1)}, _slice, quantized=("same",)),
    "pad": Kind((1, 1), {"pads": _pairs, "value": _float}, _pad, quantized=("same",)),
    # source row = (i + ½)·scale − ½ (half pixel), i·scale (nearest, floored) or align_corners; scale is input/output step
    "upsample": Kind(
        (1, 1),
        {"mode": _one_of("nearest", "bilinear"), "size": _ints(2, 1), "scale": _floats2, "align_corners": _bool},
        _upsample,
        quantized=("same",),
    ),
    # channel j·g + i takes channel i·(c/g) + j
    "channel_shuffle": Kind((1, 1), {"groups": _nat(1)}, _shuffle, quantized=("same",)),
    "reshape": Kind((1, 1), {"shape": _ints(None, 1)}, _reshape, quantized=("same",)),
    "transpose": Kind((1, 1), {"perm": _ints(None, 0)}, _transpose, quantized=("same",)),
}


# constants of the kinds that differ when their inputs are u8; see jettison.quantized
_QUANTIZED_PARAMS = {"conv": ("weight", "bias", "multiplier"), "linear": ("weight", "bias", "multiplier"), "act": ("table",)}


def output_shape(kind: str, inputs: list[Shape], attrs: Mapping[str, Any], where: str) -> Shape:
    """Shape of an op's output; GraphError naming `where` if kind, attributes or shapes are illegal."""
    row = KINDS.get(kind)
    if row is None:
        raise GraphError(f"{where}: op kind {kind!r} is not known; was the file made by a newer Jettison?")
    if not row.inputs[0] <= len(inputs) <= row.inputs[1]:
        raise GraphError(f"{where}: {kind} takes {row.inputs[0]} to {row.inputs[1]} inputs, got {len(inputs)}")
    if set(attrs) != set(row.attrs):
        raise GraphError(f"{where}: {kind} needs attributes {sorted(row.attrs)}, got {sorted(attrs)}")
    for name, legal in row.attrs.items():
        if not legal(attrs[name]):
            raise GraphError(f"{where}: {kind} attribute {name} = {attrs[name]!r} is not legal")
    try:
        out = row.shape(inputs, attrs)
    except _Bad as e:
        raise GraphError(f"{where}: {kind}: {e}") from None
    if out is None or not all(d >= 1 for d in out) or prod(out) >= MAX_ELEMENTS:
        raise GraphError(f"{where}: {kind} would give the impossible shape {out}")
    return out


def check(graph: Graph) -> Graph:
    """Return `graph` unchanged, or raise GraphError / FormatError naming the op and the fault.

    Checked: version; every tensor written once and before it is read (so no cycles); kinds,
    attributes, shapes, dtypes; constants present, of the right type and size, and none left over; weights fit their format.
    """
    if graph.version != VERSION:
        raise GraphError(f"graph version {graph.version} cannot be read; this Jettison reads version {VERSION}: export the model again")
    _need_graph(len(graph.inputs) >= 1 and len(graph.outputs) >= 1, "the graph has no input or no output")
    for name, spec in graph.tensors.items():
        ok = spec.name == name and 1 <= len(spec.shape) <= 8 and all(_nat(1)(d) for d in spec.shape) and spec.size < MAX_ELEMENTS
        _need_graph(ok, f"tensor {name!r} has the illegal shape {spec.shape}")
        _check_dtype(spec)
    for name in (*graph.inputs, *graph.outputs):
        _need_graph(name in graph.tensors, f"graph input or output {name!r} is not a tensor")
        _need_graph(graph.tensors[name].dtype == "f32", f"graph input or output {name!r} is quantized; users give and take f32")
        layout = graph.layouts.get(name, "plain")
        _need_graph(layout in LAYOUTS, f"tensor {name!r} has the unknown layout {layout!r}")
        _need_graph(layout != "nchw" or len(graph.tensors[name].shape) == 3, f"tensor {name!r} is called nchw but is not an image")
    written = set(graph.inputs)
    _need_graph(len(written) == len(graph.inputs), "an input is named twice")
    used: set[str] = set()
    names: set[str] = set()
    for op in graph.ops:
        _need_graph(op.name not in names, f"two ops are called {op.name!r}")
        names.add(op.name)
        _check_op(graph, op, written)
        used |= _check_params(graph, op)
    for name in graph.outputs:
        _need_graph(name in written, f"graph output {name!r} is never computed")
    _need_graph(written == set(graph.tensors), f"tensors {sorted(set(graph.tensors) - written)[:5]} are never computed")
    left = sorted(set(graph.constants) - used)
    _need_graph(not left, f"constants {left[:5]} belong to no op")
    return graph


def _need_graph(ok: bool, what: str) -> None:
    if not ok:
        raise GraphError(what)


def _check_op(graph: Graph, op: Op, written: set[str]) -> None:
    for name in op.inputs:
        _need_graph(name in written, f"{op.name}: input {name!r} is not computed before it (a cycle or a missing op)")
    _need_graph(len(op.outputs) == 1, f"{op.name}: every op has one output, got {len(op.outputs)}")
    out = op.outputs[0]
    _need_graph(out in graph.tensors, f"{op.name}: output {out!r} is not a tensor")
    _need_graph(out not in written, f"{op.name}: tensor {out!r} is computed twice")
    shape = output_shape(op.kind, [graph.tensors[i].shape for i in op.inputs], op.attrs, op.name)
    _need_graph(shape == graph.tensors[out].shape, f"{op.name}: output {out!r} is {graph.tensors[out].shape}, but {op.kind} gives {shape}")
    _check_dtypes(graph, op)
    written.add(out)


def _check_dtype(spec: TensorSpec) -> None:
    _need_graph(spec.dtype in DTYPES, f"tensor {spec.name!r} has the unknown dtype {spec.dtype!r}")
    if spec.dtype == "f32":
        _need_graph(spec.scale == 1.0 and spec.zero == 0, f"tensor {spec.name!r} is f32 and has a scale or a zero point")
    else:
        legal = _float(spec.scale) and SCALES[0] <= spec.scale <= SCALES[1] and _int(spec.zero) and 0 <= spec.zero <= 255
        _need_graph(legal, f"tensor {spec.name!r} has the illegal scale {spec.scale!r} or zero point {spec.zero!r}")


def _check_dtypes(graph: Graph, op: Op) -> None:
    """f32 to f32, except for `quantize`; u8 to what the kind's row allows; int8 weights exactly on u8 inputs."""
    xs, out = [graph.tensors[i] for i in op.inputs], graph.tensors[op.outputs[0]]
    quantized = xs[0].dtype == "u8"
    _need_graph(all(x.dtype == xs[0].dtype for x in xs), f"{op.name}: {op.kind} mixes f32 and u8 inputs")
    element = "i8" if quantized and op.kind in WEIGHTED else "f32"
    _need_graph(op.element == element, f"{op.name}: weights of a {op.kind} on {xs[0].dtype} inputs must be {element}, not {op.element!r}")
    if not quantized:
        want = "u8" if op.kind == "quantize" else "f32"
        _need_graph(out.dtype == want, f"{op.name}: {op.kind} on f32 gives {want}, not {out.dtype}")
        return
    allowed = KINDS[op.kind].quantized
    _need_graph(bool(allowed), f"{op.name}: {op.kind} takes no u8 input; dequantize it first")
    same = (out.scale, out.zero) == (xs[0].scale, xs[0].zero)
    _need_graph(
        out.dtype in allowed or ("same" in allowed and out.dtype == "u8" and same),
        f"{op.name}: {op.kind} on u8 gives {' or '.join(allowed)}, not {out.dtype} of another scale",
    )
    if "act" in op.attrs and op.kind != "act":
        _need_graph(
            op.attrs["act"] in CLAMPS, f"{op.name}: a quantized {op.kind} can only clamp ({', '.join(CLAMPS)}), not {op.attrs['act']}"
        )
    if op.kind == "upsample":
        _need_graph(op.attrs["mode"] == "nearest", f"{op.name}: only the nearest upsample takes u8")


def _check_params(graph: Graph, op: Op) -> set[str]:
    """Check the constants of one op; returns the names it uses."""
    row = KINDS[op.kind]
    quantized = graph.tensors[op.inputs[0]].dtype == "u8"
    must, may = (set(_QUANTIZED_PARAMS.get(op.kind, ())), set()) if quantized else (set(row.params), set(row.optional))
    roles = set(op.params)
    _need_graph(must <= roles <= must | may, f"{op.name}: {op.kind} takes constants {sorted(must | may)}, got {sorted(roles)}")
    width = graph.tensors[op.outputs[0]].shape[-1]
    used: set[str] = set()
    for role, name in op.params.items():
        if role == "weight" and op.kind in WEIGHTED:
            used |= _check_weight(graph, op, name)
            continue
        array = graph.constants.get(name)
        if array is None:
            raise GraphError(f"{op.name}: constant {name!r} is missing")
        dtype, shape = ("uint8", (256,)) if role == "table" else ("int32" if quantized and role == "bias" else "float32", (width,))
        _need_graph(
            array.dtype == dtype and array.shape == shape, f"{op.name}: {role} must be {dtype} {shape}, got {array.dtype} {array.shape}"
        )
        used.add(name)
    return used


def _check_weight(graph: Graph, op: Op, name: str) -> set[str]:
    shape = weight_shape(graph, op)
    op.format.check(shape, op.name)
    try:
        parts = graph.weight_parts(op)
    except KeyError:
        raise GraphError(f"{op.name}: constant {name!r} is missing") from None
    dtype = op.format.verify(parts, shape, op.name)  # types, sizes and index ranges
    _need_graph(dtype == ELEMENTS[op.element], f"{op.name}: weights are {dtype}, the op says {op.element}")
    _need_graph(op.format.linear or op.attrs.get("groups", 1) == 1, f"{op.name}: {op.format} of a grouped convolution is not known")
    if op.format.kind == "dense":
        return {name}
    if not parts:
        raise FormatError(f"{op.name}: no encoded parts named {name}.* are there")
    return {f"{name}.{part}" for part in parts}
