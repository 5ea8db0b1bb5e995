"""What is known of Avalanche's models with a head for each task, by the names of their methods alone.

Nothing here imports Avalanche. A model with heads takes task labels beside its inputs, and runs
``forward_single_task`` for each task. Avalanche's ``MultiTaskDecorator`` joins a trunk, its ``model``, with
the heads, its ``classifier_name``.
"""

from typing import Any

from torch import Tensor, nn


def takes_task_labels(model: nn.Module) -> bool:
    """Whether the model's output depends on task labels."""
    return hasattr(model, "forward_single_task")


def forward(model: nn.Module, x: Any, task_labels: Tensor | None) -> Any:
    """The model's output on inputs ``[n, ...]``, with task labels ``[n]`` where it takes them."""
    return model(x, task_labels) if takes_task_labels(model) else model(x)


def is_trunk_with_heads(module: nn.Module) -> bool:
    """Whether it is a trunk and heads with as many outputs as the whole, so that nothing is padded."""
    name = vars(module).get("classifier_name")
    heads = dict(module.named_children()).get(name) if isinstance(name, str) else None
    return heads is not None and getattr(heads, "max_class_label", 0) == getattr(module, "max_class_label", 1)


def forward_trunk_once(module: nn.Module, x: Tensor, task_labels: Tensor) -> Any:
    """The output of a trunk with heads, with one pass of the trunk for all tasks."""
    trunk, heads = module.get_submodule("model"), module.get_submodule(str(vars(module)["classifier_name"]))
    return heads(trunk(x).flatten(1), task_labels=task_labels)
