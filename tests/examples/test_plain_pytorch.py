"""The example without Avalanche gives the numbers of the plugin."""

import runpy
from pathlib import Path

import avalanche.benchmarks as ab
import torch
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.training import Naive
from helpers import strategy_arguments
from torch import nn

from avalanche_mgem import DMGEMPlugin

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_pytorch.py"
example = runpy.run_path(str(EXAMPLE), run_name="example")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))


class InOrder(Naive):
    """Avalanche's loop over minibatches in the order of the example's loader."""

    def make_train_dataloader(self, **kwargs):
        dataset = self.adapted_dataset
        loader = torch.utils.data.DataLoader(dataset, 10, shuffle=True, generator=self.shuffle)
        self.dataloader = loader


def test_the_plain_loop_has_the_same_weights_as_the_plugin():
    tasks = example["permuted_digits"](3, seed=0)
    plain = network()
    accuracies = example["train"](plain, tasks, seed=4)
    model = network()
    plugin = DMGEMPlugin(100, 0.1, seed=4)
    strategy = InOrder(plugins=[plugin], **strategy_arguments(model))
    strategy.shuffle = torch.Generator().manual_seed(4)
    datasets = [tensor_dataset(*train.tensors) for train, _ in tasks]
    for experience in ab.benchmark_from_datasets(train=datasets).train_stream:
        strategy.train(experience)
    for ours, theirs in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert accuracies[-1][-1] > 0.5


def test_it_prints_a_row_for_each_task(capsys):
    one, two = example["permuted_digits"](2, seed=0)
    example["main"].__globals__["permuted_digits"] = lambda n_tasks, seed: [one, two]
    example["main"]()
    rows = capsys.readouterr().out.splitlines()
    assert [row.partition(":")[0] for row in rows] == ["after task 0", "after task 1"]
    assert all(float(value) > 0.7 for value in rows[-1].split()[3:])
