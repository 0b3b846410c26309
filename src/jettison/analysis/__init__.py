"""Where each millisecond goes: what a machine permits, what a network does on it, and what would help.

works(graph) ─► waterline(works, machine, times) ─► bounds, E*, the gap and its three parts
"""

from .advice import advice
from .machine import Machine
from .summary import summary
from .waterline import MODELS, Box, Gap, Limit, Waterline, waterline
from .work import Access, Work, works

__all__ = ["MODELS", "Access", "Box", "Gap", "Limit", "Machine", "Waterline", "Work", "advice", "summary", "waterline", "works"]
