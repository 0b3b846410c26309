"""`jettison simulate`: what a file's network would take on sparse accelerators, per layer and in total."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..spec import WEIGHTED
from .tables import Json, Output, byte_count, units

if TYPE_CHECKING:
    from ..analysis.accelerator import Accelerator, LayerCost, Total


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    accelerator: Annotated[
        str, typer.Option(help="Names with commas: crisp-stc, dstc, nvidia-stc, dense; paths of .toml files; or 'all'.")
    ] = "all",
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 1,
    activation_density: Annotated[
        float | None, typer.Option(help="Share of activations that are not zero, for accelerators that use it. Default: their files'.")
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Show how the gain of the first accelerator over the last moves with every number, scaled for both."
        ),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw latency and energy per layer as .png or .svg (needs matplotlib).")] = None,
    json: Json = None,
) -> None:
    """Estimate latency and energy of a network on sparse accelerators with an analytical model.

    A model, not a measurement: cycles are the largest of arithmetic, buffer and DRAM per layer, energy is accesses times energy per
    access. Every number stands in a file with its source; --sensitivity says which ones matter. Convolutions and linear layers only.

    Examples:

        jettison simulate pets.jettison --sensitivity

        jettison simulate pets.jettison --accelerator crisp-stc,dense --plot layers.png --json layers.json
    """
    from ..analysis import accelerator as model
    from ..errors import InputError, MachineError
    from ..file import load
    from .picture import check_picture

    output = Output(json)
    if plot is not None:
        check_picture(plot)
    if activation_density is not None and not 0 < activation_density <= 1:
        raise MachineError(f"--activation-density must be a share above 0 and at most 1, got {activation_density}")
    machines = [model.load(name) for name in _names(accelerator, model.names())]
    if len({a.name for a in machines}) < len(machines):
        raise MachineError(f"two accelerators have the same name ({', '.join(a.name for a in machines)}); change it in one's file")
    if sensitivity and len(machines) < 2:
        raise InputError("--sensitivity compares the first accelerator with the last; name at least two")
    if activation_density is not None:
        machines = [replace(a, activation_density=activation_density) if a.skips == "any" else a for a in machines]
    graph = load(file)
    layers = model.work(graph, batch)
    if not layers:
        raise InputError(f"{file}: has no convolution or linear layer with weights; there is nothing to simulate")
    costs = {a.name: [model.layer_cost(w, a) for w in layers] for a in machines}
    totals = {a.name: model.total(costs[a.name], a) for a in machines}
    moved = model.sensitivity(layers, machines[0], machines[-1]) if sensitivity else []
    _show(output, costs, totals, machines, f"{file}, batch {batch}")
    if moved:
        _show_sensitivity(output, moved, machines[0], machines[-1])
    floats = [op.name for op in graph.ops if op.kind in WEIGHTED and op.element != "i8"]
    if floats:
        output.say(
            f"{len(floats)} of {len(layers)} layers are no int8, which the machines multiply: their bytes are counted as they are stored, "
            "multiply-adds as if int8; make the file with --element int8"
        )
    if plot is not None:
        draw(plot, costs, totals, machines)
    output.save(
        {
            "file": str(file),
            "batch": batch,
            "accelerators": [asdict(a) for a in machines],
            "total": {name: asdict(t) for name, t in totals.items()},
            "layers": {name: [_row(c) for c in cs] for name, cs in costs.items()},
            "sensitivity": moved,
            "paper": model.PAPER,
            "not_int8": floats,
        }
    )


def _names(text: str, known: list[str]) -> list[str]:
    return known if text == "all" else list(dict.fromkeys(word.strip() for word in text.split(",")))


def _row(c: LayerCost) -> dict[str, Any]:
    return {**asdict(c), "cycles": c.cycles, "bound": c.bound, "total_pj": c.total_pj}


def _show(output: Output, costs: dict[str, list[LayerCost]], totals: dict[str, Total], machines: list[Accelerator], title: str) -> None:
    first, last = machines[0], machines[-1]
    rows: list[Any] = [
        (
            c.name, units(c.macs), *(f"{v:.0f}" for v in (c.compute_cycles, c.buffer_cycles, c.dram_cycles)), c.bound,
            f"{c.utilisation:.0%}", f"{c.imbalance:.2f}", byte_count(c.weight_bytes), byte_count(c.metadata_bytes),
            f"{c.total_pj / 1e6:.1f}",
        )
        for c in costs[first.name]
    ]  # fmt: skip
    columns = (
        "layer", ">MACs", ">compute", ">buffer", ">DRAM", "bound", ">utilisation", ">imbalance", ">weights", ">metadata", ">µJ",
    )  # fmt: skip
    output.table(f"{title} on {first.name}: cycles of each limit", columns, rows, "imbalance: cycles over those of even rows")
    if len(machines) > 1:
        _show_gains(output, costs, machines)
    base = totals[last.name]
    rows = [
        (
            a.name, f"{1e3 * totals[a.name].seconds:.3g} ms", f"{base.seconds / totals[a.name].seconds:.2f}×",
            f"{1e3 * totals[a.name].joules:.3g} mJ", f"{base.joules / totals[a.name].joules:.2f}×", *_shares(costs[a.name]),
        )
        for a in machines
    ]  # fmt: skip
    columns = ("accelerator", ">latency", f">over {last.name}", ">energy", f">over {last.name}", ">of it DRAM", ">buffer", ">arithmetic")
    output.table("Total", columns, rows, "a model with assumptions, not a measurement; --sensitivity says which ones matter")


def _show_gains(output: Output, costs: dict[str, list[LayerCost]], machines: list[Accelerator]) -> None:
    """The first accelerator against each other one, layer by layer."""
    from ..analysis.accelerator import total

    first, *others = machines
    rows = []
    for layers in zip(*(costs[a.name] for a in machines), strict=True):
        own, *theirs = (total([c], a) for c, a in zip(layers, machines, strict=True))
        gains = (getattr(t, field) / getattr(own, field) for field in ("seconds", "joules") for t in theirs)
        rows.append((layers[0].name, *(f"{g:.2f}×" for g in gains)))
    columns = ("layer", *(f">{what} over {a.name}" for what in ("latency", "energy") for a in others))
    output.table(f"Gain of {first.name} per layer", columns, rows)


def _shares(costs: list[LayerCost]) -> tuple[str, str, str]:
    whole = sum(c.total_pj for c in costs)
    dram, buffer = (sum(c.energy_pj[name] for c in costs) / whole for name in ("DRAM", "buffer"))
    return f"{dram:.0%}", f"{buffer:.0%}", f"{1 - dram - buffer:.0%}"


def _show_sensitivity(output: Output, moved: list[dict[str, Any]], first: Accelerator, last: Accelerator) -> None:
    rows = [
        (
            r["parameter"], f"{getattr(first, r['parameter']):g}", *(f"{v:.2f}×" for what in ("latency", "energy") for v in r[what]),
            first.sources[r["parameter"]],
        )
        for r in moved
    ]  # fmt: skip
    columns = ("number", ">value", ">latency, halved", ">doubled", ">energy, halved", ">doubled", "source")
    output.table(f"Gain of {first.name} over {last.name} with each number halved and doubled in both", columns, rows)


def draw(path: Path, costs: dict[str, list[LayerCost]], totals: dict[str, Total], machines: list[Accelerator]) -> None:
    """Cycles and energy per layer, and the gains in total beside those that the paper claims."""
    from ..analysis.accelerator import PAPER
    from .picture import pyplot, save

    last = machines[-1]
    figure, ((cycles, gains), (energy, joules)) = pyplot().subplots(2, 2, figsize=(12, 7), width_ratios=(3, 1))
    for a in machines:
        cycles.plot([c.cycles for c in costs[a.name]], drawstyle="steps-mid", label=a.name)
        energy.plot([c.total_pj / 1e6 for c in costs[a.name]], drawstyle="steps-mid", label=a.name)
    for axes, label in ((cycles, "cycles"), (energy, "energy, µJ")):
        axes.set(yscale="log", xlabel="layer, in the order of the network", ylabel=f"{label} per layer")
    cycles.legend(ncols=len(machines), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    for axes, what, field in ((gains, "latency", "seconds"), (joules, "energy", "joules")):
        values = [getattr(totals[last.name], field) / getattr(totals[a.name], field) for a in machines]
        axes.bar([a.name for a in machines], values)
        axes.axhline(PAPER[what], color="0.4", linestyle="--")
        axes.text(0, PAPER[what], f" paper: up to {PAPER[what]:.0f}×", va="bottom")
        axes.set(ylabel=f"{what}: times better than {last.name}")
        axes.tick_params(axis="x", rotation=30)
    figure.tight_layout()
    save(figure, path)
