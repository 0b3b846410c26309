"""Memory freed by a training step is there for the next one."""

import platform
import subprocess
import sys

import pytest

PAGE = 4096
TENSORS = (20 << 20, 80 << 20)  # bytes

USES = f"""
import resource
from contextlib import nullcontext
import torch
from jettison.training.memory import freed_stays

def faults(uses):
    for _ in range(uses):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(size, dtype=torch.uint8) for size in {TENSORS}]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for meanwhile in (nullcontext(), freed_stays(), nullcontext()):
    with meanwhile:
        print(faults(uses=5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_large_tensors_have_their_pages_at_hand_in_a_training_and_give_them_back_after_it():
    found = subprocess.run([sys.executable, "-c", USES], capture_output=True, text=True, check=True, env={"THP_MEM_ALLOC_ENABLE": "0"})
    before, meanwhile, after = map(int, found.stdout.split())
    pages = sum(TENSORS) // PAGE
    assert before > pages / 2
    assert meanwhile < pages / 100
    assert after > pages / 2
