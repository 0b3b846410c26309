"""What every command prints with: one console, tables, bars, numbers with units, JSON files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..errors import FileError

STDOUT = "-"
FILE_WIDTH = 200  # characters, where the output is no terminal
BAR_WIDTH = 40  # characters of the longest bar

Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON too; '-' is stdout, and tables then go to stderr.")
]


class Output:
    """Where a command's result goes. `json` is its --json. Errors: FileError, at once, if that cannot be written."""

    def __init__(self, json: str | None) -> None:
        self.json = json
        self.console = Console(stderr=json == STDOUT)
        if not self.console.is_terminal:  # a file or a pipe has no edge to wrap at
            self.console = Console(stderr=json == STDOUT, width=FILE_WIDTH)
        if json not in (None, STDOUT):
            check_writable(Path(json))

    @property
    def live(self) -> bool:
        """True if a progress bar on stdout disturbs nobody."""
        return self.json != STDOUT and self.console.is_terminal

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
        """A column called ">name" is aligned to the right. A row of None is a rule. Cells are plain text."""
        table = Table(
            title=title, title_justify="left", title_style="bold", caption=note or None, caption_justify="left", show_header=any(columns)
        )
        for name in columns:
            number = name.startswith(">")
            table.add_column(name.removeprefix(">"), justify="right" if number else "left", overflow="fold", no_wrap=number)
        for row in rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        self.console.print(table)

    def say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def bars(self, title: str, names: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> None:
        """A horizontal bar per name and series, all on one scale."""
        top = max((v for values in series.values() for v in values), default=0) or 1
        table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
        for justify in ("left", "left", "left", "right"):
            table.add_column(justify=justify)
        for i, name in enumerate(names):
            for j, (label, values) in enumerate(series.items()):
                style = ("grey62", "cyan")[j % 2]
                bar = Text("█" * round(values[i] / top * BAR_WIDTH) or "▏", style=style)
                table.add_row(Text(name if j == 0 else ""), Text(label, style=style), bar, f"{values[i]:.3f} {unit}")
        self.console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Any]:
        """A bar that is gone afterwards; yields tell(what, finished share). Silent unless stderr is a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda what, done: bar.update(task, description=what, completed=done)

    def save(self, data: dict[str, Any]) -> None:
        """Write --json, if it was given: atomically. Errors: FileError."""
        if self.json is None:
            return
        text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        if self.json == STDOUT:
            sys.stdout.write(text)
            return
        from ..file import replace

        replace(self.json, text.encode())


def check_writable(path: Path) -> None:
    """Before a long job: the place of its result must exist and be ours. Errors: FileError."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileError(f"{path}: the folder {folder} does not exist; make it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(f"{path}: cannot be written; choose a file in a folder you may write to")


def units(value: float, unit: str = "") -> str:
    """Three digits, a decimal prefix, the unit: (1820000000, "B") → "1.82 GB"."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:  # 999.6 would be written as 1000
            return f"{three_digits(value / limit)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}".rstrip()


def three_digits(value: float) -> str:
    """ "12.3", "0.123", "1234": never an exponent where all digits are short."""
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"


def byte_count(value: float) -> str:
    return units(value, "B")


def interval(median: float, p10: float, p90: float) -> str:
    """ "12.3 (12.1 – 12.9)"."""
    return f"{three_digits(median)} ({three_digits(p10)} – {three_digits(p90)})"
