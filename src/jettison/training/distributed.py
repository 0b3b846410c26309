"""Several processes, started by `torchrun`: one group, one model copy and one part of each batch per process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import TrainingError
from .data import Shard


@dataclass(frozen=True, slots=True)
class Processes:
    """rank of this process, world of them. `Processes()` is a program of its own."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes files and draws the progress bar."""
        return self.rank == 0

    def shard(self, batch: int) -> Shard:
        """Errors: TrainingError when the global batch cannot be cut evenly."""
        if batch % self.world:
            raise TrainingError(f"a batch of {batch} cannot be shared by {self.world} processes; choose a multiple of {self.world}")
        return Shard(self.rank, self.world)

    def wrap(self, model: nn.Module, device: torch.device, sync_batchnorm: bool) -> nn.Module:
        """The model to call in training: gradients are averaged over the processes in `backward`."""
        if self.world == 1:
            return model
        if sync_batchnorm:
            if device.type != "cuda":
                raise TrainingError("sync_batchnorm needs GPUs; on the CPU train with one process or without it")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def sum(self, value: Tensor) -> Tensor:
        """In place, over all processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's batch statistics, so that all evaluate the same network."""
        if self.world > 1:
            for b in model.buffers():
                dist.broadcast(b, src=0)

    def check_equal(self, values: Mapping[str, Tensor], what: str) -> None:
        """Errors: TrainingError, in every process, naming the first of these int64 scalars that is not the same in all of them."""
        if self.world == 1:
            return
        mine = torch.stack(list(values.values()))
        both = torch.stack([mine, ~mine])  # ~ turns the order round: the largest of both are the largest and the smallest
        dist.all_reduce(both, dist.ReduceOp.MAX)
        other = both[0] != ~both[1]
        if other.any():
            name = list(values)[int(other.nonzero()[0])]
            raise TrainingError(
                f"{what} of layer {name} differ between the {self.world} processes, so their weights do: resume from the last "
                "checkpoint; if it happens again, look for code that changes weights or random numbers in one process only"
            )


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes of this run: `torchrun`'s when it set WORLD_SIZE, else just this one. Leaves the group at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    mine = not dist.is_initialized()
    if mine:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        if mine:
            dist.destroy_process_group()
