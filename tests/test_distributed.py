"""Two processes of DistributedDataParallel, each with its share of the data."""

import subprocess
import sys
from pathlib import Path

import avalanche.benchmarks as ab
import pytest
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from avalanche_mgem import DMGEM, Projector

SCRIPT = """
import os
import sys
import warnings
import pytest
import torch
import torch.distributed as dist
from avalanche.distributed import DistributedHelper
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {tests!r})
from test_distributed import heads, network, trained, trained_by_avalanche, shards


def run(rank, folder):
    warnings.simplefilter("error")  # Avalanche warns of a plugin that does not say that it supports this
    warnings.filterwarnings("ignore", "No loggers specified")
    dist.init_process_group("gloo", init_method=f"file://{{folder}}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)
    assert DistributedHelper.is_distributed
    model = network()
    torch.manual_seed(rank)  # Avalanche gives every rank the whole experience, in its own order
    model, minibatches = trained_by_avalanche(DistributedDataParallel(model))
    torch.save([p.detach() for p in model.module.parameters()], f"{{folder}}/avalanche{{rank}}.pt")
    torch.save(minibatches, f"{{folder}}/minibatches{{rank}}.pt")
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


def trained_by_avalanche(model: nn.Module) -> tuple[nn.Module, list[torch.Tensor]]:
    """A strategy of Avalanche; returns the minibatches, too."""
    datasets = [
        tensor_dataset(*(torch.cat(parts) for parts in list(zip(*batches, strict=True))[:2]))
        for batches in shards(0, 1)
    ]
    minibatches = []

    class Seen(SupervisedPlugin, supports_distributed=True):
        def before_training_iteration(self, strategy, **kwargs):
            minibatches.append(strategy.mb_x.clone())

    strategy = DMGEM(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        patterns_per_exp=8,
        train_mb_size=4,
        evaluator=None,
        plugins=[Seen()],
    )
    for experience in ab.benchmark_from_datasets(train=datasets).train_stream:
        strategy.train(experience)
    return model, minibatches


@pytest.mark.slow
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
    first, second = (torch.load(tmp_path / f"avalanche{rank}.pt") for rank in range(2))
    for one, other, start in zip(first, second, network().parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)
    ours, others = (torch.load(tmp_path / f"minibatches{rank}.pt") for rank in range(2))
    assert all(not torch.equal(one, other) for one, other in zip(ours, others, strict=True))
