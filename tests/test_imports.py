"""What the method does without: trackers and launchers, and Avalanche itself."""

import os
import subprocess
import sys

import pytest

# Where a name is None in sys.modules, importing it fails as if it were not installed.
WITHOUT_AVALANCHE = """
import sys
absent = ["avalanche", "torchvision", "hydra", "wandb", "tensorboard", "ray", "submitit"]
sys.modules.update(dict.fromkeys(absent))
import torch
from avalanche_mgem import Projector

model = torch.nn.Linear(4, 2)
criterion = torch.nn.CrossEntropyLoss()
mgem = Projector(model, criterion, patterns_per_task=2, num_groups=2)
for task in ([(torch.ones(4), 0), (torch.zeros(4), 1)], [(torch.zeros(4), 0), (torch.ones(4), 1)]):
    for x, y in torch.utils.data.DataLoader(task, batch_size=2):
        model.zero_grad()
        criterion(model(x), y).backward()
        mgem.project()
        print(bool((model.weight.grad != 0).any()))
    mgem.remember(task)
"""

# Avalanche itself imports wandb and SummaryWriter at its top. Modules without anything in them are enough for
# that, so what fails here is what this package would ask of them.
WITHOUT_TRACKERS = """
import sys, types
sys.modules.update(dict.fromkeys(["ray", "submitit"]))
sys.modules["wandb"] = types.ModuleType("wandb")
sys.modules["torch.utils.tensorboard"] = types.ModuleType("torch.utils.tensorboard")
sys.modules["torch.utils.tensorboard"].SummaryWriter = None
import torch
from avalanche_mgem import DMGEM, MGEMPlugin
from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
strategy = DMGEM(
    model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), patterns_per_exp=4, evaluator=None)
for experience in subsample(PermutedDigits(2, seed=0), 4, seed=0).train_stream:
    strategy.train(experience)
print(len(MGEMPlugin.of(strategy).memory))
"""


def run(code: str) -> list[str]:
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_the_method_in_a_plain_loop_needs_no_avalanche_tracker_or_launcher():
    assert run(WITHOUT_AVALANCHE) == ["True", "True"]


@pytest.mark.slow
def test_the_plugin_asks_nothing_of_trackers_and_launchers():
    assert run(WITHOUT_TRACKERS) == ["2"]
