"""Which weights a method may touch: those of every Conv2d and Linear, less three kinds that carry few weights and much accuracy.

The stem reads the image, the classifier writes the answer, a depthwise conv has one input
channel per filter: sparsifying them saves little and costs most. Each exception is a setting.

A MultiheadAttention holds its input projections as weights of its own, and they count as Linear. A weight that several
modules use is pruned only where all of them may be: an embedding tied to the output layer keeps both dense. Every other
weight of two axes or more (transposed convolutions, embeddings, parameters of your own) stays dense and is listed, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from ..errors import FormatError
from ..formats import NM, Block, Dense, Format
from ..spec import IMAGE_CHANNELS
from .mask import krsc_shape

# class → its weights with the input channels along axis 1
PRUNABLE: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("weight",),
    nn.Linear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
REASONS: dict[type[nn.Module], str] = {
    nn.ConvTranspose2d: "transposed convolution: no kernel skips its weights; nn.Upsample with a Conv2d can be pruned",
    nn.Embedding: "embedding: rows are looked up, nothing is summed",
}
REMAINDERS = ("refuse", "dense", "inner")  # for a selected layer whose channels do not divide


@dataclass(frozen=True, slots=True)
class Select:
    """True means "sparsify these too". `include` and `exclude` are names as in `LayerChoice`, `*` allowed; they win over the rest.

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
    """One weight. `name` is its module's path, with the parameter's name behind it where that is not "weight".

    `format` is None when the weight stays dense, and `reason` then says why. shape: (k, r, s, c) if it could be pruned, else as it is.
    """

    name: str
    module: nn.Module
    parameter: str
    shape: tuple[int, ...]
    format: Format | None
    reason: str

    @property
    def weight(self) -> Any:
        """The parameter; Ŵ while a method parametrizes it."""
        return getattr(self.module, self.parameter)


def choose_layers(model: nn.Module, fmt: Format | Mapping[str, Format], rule: Rule, remainder: str) -> list[LayerChoice]:
    """A choice per weight of two axes or more, in order of definition; a module used twice appears once.

    fmt: of all layers that `rule` selects; or by layer, and then `rule` is not asked: what is not named stays dense.
    Errors: FormatError when a chosen layer cannot have `fmt` and `remainder` is "refuse", when no
    layer is left, or when a name in `include` or `exclude` matches nothing.
    """
    weights = list(_weights(model))
    layers = [(n, m) for n, m, parameter in weights if parameter in _prunable(m)]
    if isinstance(fmt, Mapping):
        check_names(model, fmt)
        rule = lambda name, module: name in fmt  # noqa: E731
    elif isinstance(rule, Select):
        check_names(model, (*rule.include, *rule.exclude))
    last = next((m for _, m in reversed(layers) if not isinstance(m, nn.MultiheadAttention)), None)
    choices = []
    for name, module, parameter in weights:
        reason = _reason_dense(name, module, parameter, module is last, rule)
        weight: Any = getattr(module, parameter)
        shape = krsc_shape(weight) if parameter in _prunable(module) else tuple(weight.shape)
        own: Format | None = None
        if not reason and isinstance(fmt, Mapping) and isinstance(fmt[name], Dense):
            reason = "dense as asked for"
        if not reason:
            own, reason = _fitting(name, module, parameter, shape, fmt[name] if isinstance(fmt, Mapping) else fmt, remainder)
        choices.append(LayerChoice(name, module, parameter, shape, own, reason))
    choices = _without_tied(choices)
    if not any(c.format for c in choices):
        why = "; ".join(f"{c.name}: {c.reason}" for c in choices) or "the model has no Conv2d and no Linear"
        raise FormatError(f"no layer is left to make {'sparse' if isinstance(fmt, Mapping) else fmt} ({why}); choose layers with select=")
    return choices


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, parameter) of every weight of two axes or more, a parametrized one by its own name."""
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        plain = [n for n, p in module.named_parameters(recurse=False, remove_duplicate=False) if p.dim() > 1]
        parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
        for parameter in (*plain, *parametrized):
            yield path if parameter == "weight" else f"{path}.{parameter}".lstrip("."), module, parameter


def _prunable(module: nn.Module) -> tuple[str, ...]:
    return next((names for cls, names in PRUNABLE.items() if isinstance(module, cls)), ())


def _without_tied(choices: list[LayerChoice]) -> list[LayerChoice]:
    """A weight that also stands where it is not pruned to the same format is not pruned at all."""
    plain = {c.name: id(c.weight) for c in choices if not parametrize.is_parametrized(c.module, c.parameter)}
    uses: dict[int, list[LayerChoice]] = {}
    for c in choices:
        if c.name in plain:
            uses.setdefault(plain[c.name], []).append(c)
    for i, c in enumerate(choices):
        other = next((o for o in uses.get(plain.get(c.name, 0), ()) if o.format != c.format), None)
        if c.format is not None and other is not None:
            choices[i] = replace(c, format=None, reason=f"its weight is also that of {other.name} ({other.reason})")
    return choices


def _reason_dense(name: str, module: nn.Module, parameter: str, is_last: bool, rule: Rule) -> str:
    if parameter not in _prunable(module):
        known = next((reason for cls, reason in REASONS.items() if isinstance(module, cls)), None)
        return known or f"a parameter of {type(module).__name__}: only Conv2d, Linear and MultiheadAttention are pruned"
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


def _fitting(
    name: str, module: nn.Module, parameter: str, shape: tuple[int, ...], fmt: Format, remainder: str
) -> tuple[Format | None, str]:
    """The layer's format and, where it is not `fmt`, why."""
    if parametrize.is_parametrized(module, parameter):
        raise FormatError(f"{name}: its weight is already parametrized; call finish() or remove that parametrization first")
    try:
        fmt.check(shape, name)
    except FormatError as e:
        if remainder == "refuse":
            inside = ", 'inner' makes them N:M alone" if isinstance(fmt, Block) and isinstance(fmt.inner, NM) else ""
            raise FormatError(f"{e}; remainder='dense' (--remainder dense) leaves such layers dense{inside}") from e
        channels = f"{shape[0]} output and {shape[3]} input channels" if isinstance(fmt, Block) else f"input channels {shape[3]}"
        inner = fmt.inner if isinstance(fmt, Block) and remainder == "inner" else None
        fits = isinstance(inner, NM) and shape[3] % inner.m == 0
        return inner if fits else None, f"{channels} do not fit {fmt}"
    return fmt, ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def check_names(model: nn.Module, patterns: Iterable[str]) -> None:
    """Errors: FormatError for a pattern that is the name of no layer; * allowed."""
    names = [n for n, m, parameter in _weights(model) if parameter in _prunable(m)]
    for p in patterns:
        if not any(fnmatchcase(n, p) for n in names):
            raise FormatError(f"no Conv2d or Linear is called {p!r}; the layers are {', '.join(names)}")
