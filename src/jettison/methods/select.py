"""Which layers a method may touch: every Conv2d and Linear, less three kinds that carry few weights and much accuracy.

The stem reads the image, the classifier writes the answer, a depthwise conv has one input
channel per filter: sparsifying them saves little and costs most. Each exception is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from ..errors import FormatError
from ..formats import NM, Block, Format
from .mask import krsc_shape

REMAINDERS = ("refuse", "dense", "inner")  # for a selected layer whose channels do not divide
IMAGE_CHANNELS = 4  # grey, RGB, RGB + alpha: a conv with no more input channels reads the image


@dataclass(frozen=True, slots=True)
class Select:
    """True means "sparsify these too". `include` and `exclude` are layer names, `*` allowed; they win over the rest.

    stem:       a conv with at most 4 input channels and one group (it reads the image)
    depthwise:  a grouped conv with one input channel per group
    classifier: the last Conv2d or Linear in the order of definition
    grouped:    other grouped convs
    """

    stem: bool = False
    depthwise: bool = False
    classifier: bool = False
    grouped: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


Rule = Select | Callable[[str, nn.Module], bool]


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One Conv2d or Linear. `format` is None when the layer stays dense, and `reason` then says why."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    format: Format | None
    reason: str


def choose_layers(model: nn.Module, fmt: Format, rule: Rule, remainder: str) -> list[LayerChoice]:
    """A choice per Conv2d and Linear, in order of definition; a module used twice appears once.

    Errors: FormatError when a chosen layer cannot have `fmt` and `remainder` is "refuse", when no
    layer is left, or when a name in `include` or `exclude` matches nothing.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if isinstance(rule, Select):
        _check_names((*rule.include, *rule.exclude), [n for n, _ in layers])
    last = layers[-1][1] if layers else None
    choices = []
    for name, module in layers:
        reason = _reason_dense(name, module, module is last, rule)
        shape = krsc_shape(module.weight)  # type: ignore[arg-type]
        own: Format | None = None
        if not reason:
            own, reason = _fitting(name, module, shape, fmt, remainder)
        choices.append(LayerChoice(name, module, shape, own, reason))
    if not any(c.format for c in choices):
        why = "; ".join(f"{c.name}: {c.reason}" for c in choices) or "the model has no Conv2d and no Linear"
        raise FormatError(f"no layer is left to make {fmt} ({why}); choose layers with select=")
    return choices


def _reason_dense(name: str, module: nn.Module, is_last: bool, rule: Rule) -> str:
    if not isinstance(rule, Select):
        return "" if rule(name, module) else "not selected"
    if _matches(name, rule.exclude):
        return "excluded by name"
    if _matches(name, rule.include):
        return ""
    if is_last and not rule.classifier:
        return "final classifier"
    if not isinstance(module, nn.Conv2d):
        return ""
    if module.groups == 1:
        return "stem" if module.in_channels <= IMAGE_CHANNELS and not rule.stem else ""
    if module.in_channels == module.groups:
        return "" if rule.depthwise else "depthwise"
    return "" if rule.grouped else "grouped"


def _fitting(name: str, module: nn.Module, shape: tuple[int, ...], fmt: Format, remainder: str) -> tuple[Format | None, str]:
    """The layer's format and, where it is not `fmt`, why."""
    if parametrize.is_parametrized(module, "weight"):
        raise FormatError(f"{name}: its weight is already parametrized; call finish() or remove that parametrization first")
    try:
        fmt.check(shape, name)
    except FormatError as e:
        if remainder == "refuse":
            raise FormatError(f"{e}; remainder='dense' leaves such layers dense") from e
        channels = f"{shape[0]} output and {shape[3]} input channels" if isinstance(fmt, Block) else f"input channels {shape[3]}"
        inner = fmt.inner if isinstance(fmt, Block) and remainder == "inner" else None
        fits = isinstance(inner, NM) and shape[3] % inner.m == 0
        return inner if fits else None, f"{channels} do not fit {fmt}"
    return fmt, ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def _check_names(patterns: Iterable[str], names: list[str]) -> None:
    for p in patterns:
        if not any(fnmatchcase(n, p) for n in names):
            raise FormatError(f"select: no Conv2d or Linear is called {p!r}; the layers are {', '.join(names)}")
