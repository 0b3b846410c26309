"""Was the machine at rest while something was measured?"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

BUSY = 0.1  # processors that others used meanwhile


@dataclass(frozen=True, slots=True)
class Load:
    """Processor seconds so far: of all processes that the system counts, and of this one. wall: seconds."""

    system: float
    own: float
    wall: float

    @staticmethod
    def now() -> Load:
        try:
            fields = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
            system = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting for disks; with steal
        except (OSError, ValueError, IndexError, AttributeError):
            system = time.process_time()
        return Load(system, time.process_time(), time.perf_counter())

    def complaints(self) -> list[str]:
        """What to warn of, since this was taken: nothing, or how many processors others used."""
        now = Load.now()
        others = (now.system - self.system - (now.own - self.own)) / max(now.wall - self.wall, 1e-9)
        if others < BUSY:
            return []
        return [f"the machine was busy: other programs used {others:.1f} processors meanwhile; stop them and measure again"]
