"""Pictures that commands draw: matplotlib without a screen, files written whole or not at all; and that of `jettison compress --plot`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..file import replace
from .tables import check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")
COLOURS = ("0.7", "tab:blue", "tab:green")


def pyplot() -> Any:
    """matplotlib's, drawing to files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def check_picture(path: Path) -> None:
    """Before a long job: its suffix is known, the file can be written, matplotlib is here. Errors: InputError, FileError."""
    if path.suffix not in PICTURES:
        raise InputError(f"{path}: a picture is one of {', '.join(PICTURES)}, by the file's name")
    check_writable(path)
    pyplot()


def save(figure: Figure, path: Path) -> None:
    """In the format of the path's suffix; closes the figure. Errors: FileError."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lstrip("."), dpi=150)
    pyplot().close(figure)
    replace(path, picture.getvalue())


def draw(path: Path, layers_ms: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of every layer's time in all networks. layers_ms: by layer and network."""
    names = list(layers_ms)
    figure, axes = pyplot().subplots(figsize=(8, 1 + 0.28 * len(names)))
    networks = list(layers_ms[names[0]]) if names else []
    height = 0.8 / max(len(networks), 1)
    for i, (label, colour) in enumerate(zip(networks, COLOURS)):
        axes.barh(
            [row + height * i for row in range(len(names))], [layers_ms[name][label] for name in names], height, label=label, color=colour
        )
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("median time per layer, ms")
    axes.legend()
    figure.tight_layout()
    save(figure, path)
