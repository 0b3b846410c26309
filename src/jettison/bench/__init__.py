"""Measuring networks against each other on this machine: processes of their own, turns, checked outputs."""

from .comparison import Absent, Comparison, Entrant, Timing, compare
from .machine import processors, provenance

__all__ = ["Absent", "Comparison", "Entrant", "Timing", "compare", "processors", "provenance"]
