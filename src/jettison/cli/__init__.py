"""The command line. To add a command: one file here with a function of the same name, one line in `VERBS`.

A command's file is imported when the command is called, so `jettison --help` needs no PyTorch and no time.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from .. import __version__
from ..errors import JettisonError

# name → one line for `jettison --help`; the command itself is NAME.py with a function NAME
VERBS: dict[str, str] = {
    "compress": "Trained network in, faster one out: prune, retrain, export, verify, measure.",
    "train": "Train a network, dense or N:M sparse.",
    "budget": "How many of every M weights each layer keeps, under a budget; trains nothing.",
    "search": "Search hyper-parameters or a budget's spread by training; several machines at one study.",
    "eval": "Accuracy of a .jettison file or a PyTorch model on a whole test set.",
    "bench": "Time against other engines on this machine, interleaved, outputs checked.",
    "explain": "Every layer of a file: format, kernel and why, work, bytes, measured time, limit.",
    "waterline": "Where each millisecond goes: the machine's limits, the network's layers, a report.",
    "gap": "Accuracy over latency, ideal and measured: how well families of networks use a machine.",
    "probe": "Measure what this machine permits: multiply-adds and bytes a second.",
    "simulate": "Latency and energy on sparse accelerators, by an analytical model.",
    "export": "Write a file's network as ONNX, float32 or int8 (QDQ).",
    "verify": "Check a file: integrity, patterns, outputs on every instruction set.",
    "inspect": "What is in a file: layers, formats, sizes. Runs nothing.",
}

# optional packages → the extra that brings them
EXTRAS = {
    "torch": "train",
    "sklearn": "train",
    "PIL": "train",
    "pyarrow": "train",
    "onnx": "bench",
    "onnxruntime": "bench",
    "openvino": "bench",
    "matplotlib": "docs",
    "plotly": "report",
    "optuna": "search",
}

USAGE, BUG, INTERRUPTED = 2, 1, 130  # exit codes
DEBUG = "JETTISON_DEBUG"
LOOK: Any = {"rich_markup_mode": "markdown", "add_completion": False, "context_settings": {"help_option_names": ["-h", "--help"]}}
UsageError: Any = typer.BadParameter.__base__  # click's, wherever this version of typer has it

HELP = """Make a trained convolutional network measurably faster on this machine.

The main job, on data that needs no download:

    jettison compress resnet18 --data digits --size 32 --dense-epochs 3 --epochs 3 --pattern 1:4 -o digits.jettison

Then look at it: jettison explain digits.jettison
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 bad input (one line on stderr), 1 a bug of ours, 130 interrupted."""
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        code = application().main(args=words, prog_name="jettison", standalone_mode=False)
    except JettisonError as e:
        _fail(str(e), USAGE)
    except UsageError as e:
        where = e.ctx.command_path if e.ctx else "jettison"
        _fail(f"{e.format_message().rstrip('.')}; see {where} --help", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `jettison inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ImportError as e:
        _fail(*_missing(e))
    except Exception as e:
        _fail(f"this is a bug of Jettison, please report it: {type(e).__name__}: {e} ({DEBUG}=1 shows where)", BUG)
    if code == INTERRUPTED:  # some versions of typer catch the interrupt themselves
        _fail("interrupted", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def application() -> Any:
    """The `jettison` command of typer, with every verb."""
    app = typer.Typer(cls=_Verbs, help=HELP, **LOOK)
    app.callback()(_options)
    return typer.main.get_command(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help=f"Show where an error comes from (also {DEBUG}=1).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


class _Verbs(typer.core.TyperGroup):
    """Lists `VERBS` from the table alone; imports the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: _command(name, lambda: None, line) for name, line in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


def load(verb: str) -> Any:
    """The command of one verb; imports its file."""
    function = getattr(import_module(f".{verb}", __name__), verb)
    return _command(verb, function, function.__doc__)


def _command(name: str, function: Any, text: str | None) -> Any:
    app = typer.Typer(**LOOK)
    app.command(name, help=text)(function)
    return typer.main.get_command(app)


def _missing(e: ImportError) -> tuple[str, int]:
    """Message and exit code for a package that is not there."""
    if "_native" in str(e):
        return "the native runtime is not built; build and install Jettison with: pip install .", USAGE
    package = (e.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return f"this is a bug of Jettison, please report it: {e} ({DEBUG}=1 shows where)", BUG
    return f"this command needs {package}; install it with: pip install 'jettison[{extra}]'", USAGE


def _fail(message: str, code: int) -> None:
    """One line on stderr, then the end. With JETTISON_DEBUG=1 the traceback comes first."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
    print("jettison: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
