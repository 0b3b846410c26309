"""Every error Jettison raises on purpose: one base class, one class per kind of failure.

A message says what failed, where, and what to do next. The command line turns any
`JettisonError` into one line on stderr and exit code 2; anything else is a bug of ours.
"""


class JettisonError(Exception):
    """Base of all errors that a user can cause and mend."""


class PatternError(JettisonError):
    """A sparsity pattern that cannot exist ("3:2") or cannot be read ("a:b")."""


class FormatError(JettisonError):
    """Weights do not fit or do not satisfy a format (channels not divisible, pattern violated)."""


class GraphError(JettisonError):
    """A graph that breaks the grammar in `jettison.spec` (unknown kind, wrong shape, cycle)."""


class FileError(JettisonError):
    """A `.jettison` file that is missing, truncated, altered, of another version or unwritable."""


class ExportError(JettisonError):
    """A PyTorch model with an operation or a layout that has no place in the graph."""


class ModelError(JettisonError):
    """An unknown model name, or a model source that cannot be loaded."""


class CheckpointError(JettisonError):
    """A checkpoint that is missing, unsafe, corrupt or does not fit the model."""


class DataError(JettisonError):
    """A data set that is unknown, missing, incomplete or corrupt."""


class TrainingError(JettisonError):
    """Training cannot go on (the loss is not finite, ranks disagree)."""


def no_effect(option: str, needs: str) -> TrainingError:
    """Of an option, as it is written, that nothing would heed."""
    return TrainingError(f"{option} has no effect without {needs}; leave it out or add that")


class InputError(JettisonError):
    """An array given to `Session.run` has the wrong shape or dtype, or an option a value that it cannot have."""


class KernelError(JettisonError):
    """No native kernel accepts a layer, or an override names one that does not."""


class MissingExtra(JettisonError):
    """A feature needs an optional package that is not installed."""


class VerificationError(JettisonError):
    """Two computations of the same network that must agree do not."""


class TabConvError(JettisonError):
    """Tables cannot be fitted (network not int8, too few images, no layer left, a budget that cannot be kept)."""


class QuantizationError(JettisonError):
    """A network or calibration images that int8 cannot be made from (no images, weights not finite, unknown layer)."""


class MachineError(JettisonError):
    """A machine description that is missing, incomplete or absurd, or does not cover what is asked of it."""


def instead_of_percent(value: float) -> str:
    """The end of a message about a share that looks like a number of percent, else nothing."""
    return f"; write {value / 100:g} for {value:g}%" if 1 < value < 100 else ""
