"""What each process of the test of DistributedDataParallel runs: python -m torch.distributed.run ... FILE."""

import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cospipe.ir.eager_adapters import Adapters, adapt
from cospipe.ir.spectral_config import SpectralConfig

STEPS, BATCH = 4, 8


def adapted_model() -> tuple[nn.Module, Adapters]:
    """A small network with adapters and a head that is trained whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, adapt(model, SpectralConfig(n=30, also_train="5"))


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of every step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, BATCH, 1, 6, 6, generator=generator)
    return x, torch.randn(STEPS, BATCH, 2, generator=generator)


def train(model: nn.Module, adapters: Adapters, rank: int = 0, processes: int = 1) -> None:
    """Train with this process's share of each batch."""
    optimizer = torch.optim.SGD(adapters.trainable_parameters(), lr=0.5)
    share = BATCH // processes
    for x, target in zip(*batches(), strict=True):
        mine = slice(rank * share, (rank + 1) * share)
        optimizer.zero_grad()
        (model(x[mine]) - target[mine]).square().mean().backward()
        optimizer.step()


def main() -> None:
    """Train in this process together with the others; the first one saves the adapter."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model, adapters = adapted_model()
    parallel = DistributedDataParallel(model)
    prepared = [delta.transform() for delta in adapters.deltas().values()]
    train(parallel, adapters, rank, processes)
    assert prepared == [delta.transform() for delta in adapters.deltas().values()], "transforms are prepared each step"
    if rank == 0:
        adapters.save(sys.argv[1])
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads can abort a process that takes them down while the other one still uses them


if __name__ == "__main__":
    main()
