import re
from pathlib import Path

import torch
from helpers import mlp

from avalanche_mgem import DMGEM

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_of_the_readme_run():
    avalanche, tensors = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    model = mlp()
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
    exec(tensors, names)
    torch.testing.assert_close(names["z"], torch.tensor([1.0, 0.0]))
