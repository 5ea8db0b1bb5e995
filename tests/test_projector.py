"""The projector by itself, in plain loops."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_mgem import Projector
from avalanche_mgem.memory import fingerprint


def tasks(n: int = 2) -> list[TensorDataset]:
    return [TensorDataset(torch.randn(12, 4), torch.randint(0, 3, (12,))) for _ in range(n)]


def backward(model: nn.Module, task: TensorDataset) -> None:
    x, y = task.tensors
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()


def test_an_error_in_the_references_leaves_no_older_ones_behind():
    model, is_broken = nn.Linear(4, 3), []

    def criterion(output, y):
        if is_broken:
            raise RuntimeError("broken")
        return nn.functional.cross_entropy(output, y)

    mgem = Projector(model, criterion, 8, references="loop")
    first, second = tasks()
    mgem.remember(first)
    backward(model, second)
    assert mgem.compute_references()
    is_broken.append(True)
    with pytest.raises(RuntimeError, match="broken"):
        mgem.compute_references()
    with pytest.raises(RuntimeError, match="broken"):
        mgem.project()


def test_a_task_that_is_named_does_not_constrain_itself():
    model = nn.Linear(4, 3)
    mgem = Projector(model, nn.CrossEntropyLoss(), 8)
    first, second = tasks()
    mgem.remember(first)
    mgem.remember(second)
    mgem.begin(fingerprint(first))
    mgem.compute_references()
    assert mgem.groups.origins == ((1, 0),)
    mgem.begin()
    mgem.compute_references()
    assert mgem.groups.origins == ((0, 0), (1, 0))


def test_without_a_past_the_gradient_stays_and_is_checked():
    model = nn.Linear(4, 3)
    mgem = Projector(model, nn.CrossEntropyLoss(), 8)
    backward(model, tasks(1)[0])
    before = model.weight.grad.clone()
    assert not mgem.compute_references()
    mgem.project()
    assert torch.equal(model.weight.grad, before)
    model.weight.grad[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="gradient or update of the current minibatch is not finite"):
        mgem.project()
    mgem.project(leave_non_finite=True)


def test_a_reference_gradient_that_is_not_finite_is_named():
    model = nn.Linear(4, 3)
    mgem = Projector(model, nn.CrossEntropyLoss(), 8, num_groups=2)
    first, second = tasks()
    mgem.remember(first)
    x, y = second.tensors
    mgem.remember(TensorDataset(x * torch.nan, y))
    backward(model, first)
    with pytest.raises(FloatingPointError, match="reference gradient of experience 1, group 0 is not finite"):
        mgem.project(leave_non_finite=True)


def test_a_projector_without_model_or_criterion_says_what_to_set():
    mgem = Projector(None, None, 8)
    mgem.remember(tasks(1)[0])
    with pytest.raises(ValueError, match=r"no model; set projector\.model before the first step"):
        mgem.project()
    mgem.model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"no criterion; set projector\.criterion before"):
        mgem.project()


def test_the_strength_of_a_step_may_be_given():
    results = []
    for strength, given in ((0.5, None), (9.0, 0.5), (0.5, 0.0)):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        mgem = Projector(model, nn.CrossEntropyLoss(), 12, strength)
        first, _ = tasks()
        mgem.remember(first)
        backward(model, TensorDataset(first.tensors[0], (first.tensors[1] + 1) % 3))
        mgem.project(given)
        results.append(model.weight.grad.clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("references", ["auto", "loop", "layerwise"])
def test_a_criterion_that_gives_a_loss_for_each_sample_is_named(references):
    first, second = tasks()
    model = nn.Linear(4, 3)
    mgem = Projector(model, nn.CrossEntropyLoss(reduction="none"), patterns_per_task=8, references=references)
    mgem.remember(first)
    backward(model, second)
    before = model.weight.grad.clone()
    with pytest.raises(
        ValueError, match=r"the criterion gives a loss of shape \[8\]; it must give one number"
    ):
        mgem.project()
    assert torch.equal(model.weight.grad, before)


def test_a_criterion_that_gives_no_tensor_is_named():
    first, second = tasks()
    model = nn.Linear(4, 3)
    mgem = Projector(model, lambda output, y: 0.5, patterns_per_task=8)
    mgem.remember(first)
    backward(model, second)
    with pytest.raises(ValueError, match="the criterion gives a float; it must give one number"):
        mgem.project()


def test_a_complex_parameter_is_named():
    first, second = tasks()
    model = nn.Linear(4, 3)
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    mgem = Projector(model, nn.CrossEntropyLoss(), patterns_per_task=8)
    mgem.remember(first)
    backward(model, second)
    with pytest.raises(ValueError, match="the parameter 'phase' is complex"):
        mgem.project()
