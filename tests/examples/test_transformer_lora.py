"""The example trains a transformer with adapters, and no step goes against a past group."""

import runpy
from pathlib import Path
from typing import ClassVar

import torch

from avalanche_mgem import Projector

EXAMPLE = Path(__file__).parents[2] / "examples" / "transformer_lora.py"
example = runpy.run_path(str(EXAMPLE), run_name="example")


class Watched(Projector):
    """Computes the gradient on each past group once more, by a plain backward pass, and its cosine with z."""

    cosines: ClassVar[list[float]] = []

    def project(self, *args, **kwargs):
        self.compute_references()
        groups = self.groups
        super().project(*args, **kwargs)
        if groups is None:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        z = torch.cat([p.grad.flatten() for p in parameters]).double()
        for group in groups:
            loss = torch.nn.functional.cross_entropy(self.model(**group.x).logits, group.y)
            own = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).double()
            self.cosines.append(float(torch.nn.functional.cosine_similarity(own, z, dim=0)))


def test_no_step_goes_against_a_past_group_and_the_base_stays(monkeypatch):
    monkeypatch.setitem(example["train"].__globals__, "Projector", Watched)
    samples = example["texts"]()[:250]
    model = example["make_model"](samples, epochs=1)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    tasks = example["tasks_of"](samples, 3)
    accuracies, cosines = example["train"](model, tasks, epochs=2, patterns_per_task=16)
    assert len(cosines) > 10
    assert min(cosines) > -1e-4
    assert min(Watched.cosines) > -1e-4
    assert len(Watched.cosines) >= 2 * len(cosines)
    assert [len(row) for row in accuracies] == [3, 3, 3]
    after = dict(model.named_parameters())
    assert frozen
    assert all(torch.equal(after[name], p) for name, p in frozen.items())
    assert any((p != 0).any() for name, p in after.items() if ".up." in name)  # the adapters have learnt
