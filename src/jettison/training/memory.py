"""Memory that a training step frees stays with the process: the next step asks for the same again."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
NEVER = -1
MMAP_MAX, TRIM_THRESHOLD = 65536, 64 << 20  # glibc's own; the threshold is what it rises to where tensors are large


@contextmanager
def freed_stays() -> Iterator[None]:
    """The C library gives nothing back to the system meanwhile; afterwards, all at once.

    By default glibc maps each large tensor anew and unmaps it when it is freed, and the system clears every page of it at its first
    use; in virtual machines that can take longer than the arithmetic. Other C libraries are left as they are.
    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        libc.malloc_trim(0)
