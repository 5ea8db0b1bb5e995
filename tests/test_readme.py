import re
from pathlib import Path

import torch
from helpers import MLP
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from avalanche_mgem import DMGEM
from avalanche_mgem.benchmarks import PermutedDigits

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_of_the_readme_run():
    avalanche, plain, tensors, data = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    model = nn.Sequential(nn.Flatten(), MLP())
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
        "g": torch.tensor([1.0, -1.0]),
        "G": torch.tensor([[0.0, 1.0]]),
        "module_ids": torch.tensor([0, 1]),
    }
    exec(avalanche, names)
    assert isinstance(names["strategy"], DMGEM)
    stock = names["benchmark"] = PermutedDigits(2, seed=0)
    exec(data, names)
    for experience in names["benchmark"].train_stream:
        names["strategy"].train(experience)
    assert names["benchmark"] is not stock
    task = TensorDataset(torch.randn(20, 1, 8, 8), torch.randint(0, 10, (20,)))
    names["tasks"] = [DataLoader(task, batch_size=10)] * 2
    exec(plain, names)
    assert len(names["mgem"].memory) == 1  # the same task twice
    exec(tensors, names)
    torch.testing.assert_close(names["z"], torch.tensor([1.0, 0.0]))
