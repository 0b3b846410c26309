"""Memory freed by a training step is there for the next one."""

import platform
import subprocess
import sys

import pytest

PAGE = 4096
TENSORS = (20 << 20, 80 << 20)  # bytes

USES = f"""
import resource
import torch
from jettison.training.memory import freed_stays

def faults(uses):
    for _ in range(uses):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(size, dtype=torch.uint8) for size in {TENSORS}]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_pages():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1])

print(faults(uses=5))
before = resident_pages()
with freed_stays():
    print(faults(uses=5), resident_pages() - before)
print(resident_pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_large_tensors_have_their_pages_at_hand_in_a_training_and_give_them_back_after_it():
    found = subprocess.run([sys.executable, "-c", USES], capture_output=True, text=True, check=True, env={"THP_MEM_ALLOC_ENABLE": "0"})
    by_default, meanwhile, held, after = map(int, found.stdout.split())
    pages = sum(TENSORS) // PAGE
    assert by_default > pages / 2
    assert meanwhile < pages / 100
    assert held > pages / 2
    assert after < pages / 10
