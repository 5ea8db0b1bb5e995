"""Two processes of DistributedDataParallel, each with its share of the data."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from avalanche_mgem import Projector

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {tests!r})
from test_distributed import heads, network, trained, shards


def run(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{{folder}}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name, make in (("mlp", network), ("heads", heads)):
        wrapped = DistributedDataParallel(make(), find_unused_parameters=True)
        model = trained(wrapped, shards(rank, 2), name == "heads")
        torch.save([p.detach() for p in model.module.parameters()], f"{{folder}}/{{name}}{{rank}}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (sys.argv[1],), nprocs=2)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Heads(nn.Module):
    """A head for each task, with the names of Avalanche's multi-head models."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])

    def forward_single_task(self, x, task_label):
        return self.heads[task_label](torch.tanh(self.trunk(x)))

    def forward(self, x, task_labels):
        tasks = task_labels.unique().tolist()
        out = torch.empty(len(x), 3, dtype=x.dtype)
        for task in tasks:
            out[task_labels == task] = self.forward_single_task(x[task_labels == task], task)
        return out


def heads() -> nn.Module:
    torch.manual_seed(0)
    return Heads().double()


def shards(rank: int, world: int):
    """Batches of each task; a rank has every second sample of each batch."""
    generator = torch.Generator().manual_seed(1)
    tasks = []
    for number in range(3):
        batches = []
        for _ in range(4):
            x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
            y = torch.randint(0, 3, (8,), generator=generator)
            batches.append((x[rank::world], y[rank::world], torch.full((8 // world,), number)))
        tasks.append(batches)
    return tasks


def trained(model: nn.Module, tasks, with_labels: bool) -> nn.Module:
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mgem = Projector(model, criterion, patterns_per_task=100, memory_strength=0.5, num_modules="layer")
    for batches in tasks:
        for x, y, labels in batches:
            optimizer.zero_grad()
            criterion(model(x, labels) if with_labels else model(x), y).backward()
            mgem.project()
            optimizer.step()
        samples = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        mgem.remember(torch.utils.data.TensorDataset(*samples))
    return model


def test_ranks_keep_equal_weights_which_are_those_of_one_process_with_all_samples(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, make in (("mlp", network), ("heads", heads)):
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt") for rank in range(2))
        alone = list(trained(make(), shards(0, 1), name == "heads").parameters())
        plain = list(make().parameters())
        for one, other, expected, start in zip(first, second, alone, plain, strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, expected.detach(), rtol=1e-7, atol=1e-9)
            assert not torch.equal(one, start)
