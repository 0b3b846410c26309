"""What one layer costs: the numbers that analysis prices and tests derive tolerances from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one op on one batch.

    macs: multiply-adds really needed (kept weights only); 1 MAC = 2 operations.
    read_bytes / write_bytes: activations in and out, each element once.
    weight_bytes: encoded weights, each byte once.
    depth: terms summed into one output element; float32 tolerance grows with its root.
    """

    macs: int
    read_bytes: int
    write_bytes: int
    weight_bytes: int
    depth: int
