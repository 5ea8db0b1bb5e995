"""One head a task for a single-head network."""

from avalanche.models import MultiTaskModule, as_multitask
from torch import nn


def multi_head(model: nn.Module) -> MultiTaskModule:
    """Replaces a network's last layer by Avalanche's ``MultiHeadClassifier``, with one head a task.

    All heads have the last layer's number of outputs, so that minibatches may mix tasks. No output is masked:
    Avalanche would mask whatever a head was not trained on, which makes every untrained head a constant and
    the accuracy before training, and so the forward transfer, meaningless.

    Args:
        model: a network whose last layer is an ``nn.Linear``, and an attribute of the network itself or
            alone in an ``nn.Sequential`` that is. One that already takes task labels is returned as it is.

    Returns:
        A network whose ``forward`` takes ``(x, task_labels)``.

    Raises:
        ValueError: if the last layer of the network is not an ``nn.Linear``.
    """
    if isinstance(model, MultiTaskModule):
        return model
    name, last = list(model.named_children())[-1]
    if isinstance(last, nn.Sequential) and len(last) == 1:  # torchvision's transformers
        last = last[0]
        setattr(model, name, last)
    if not isinstance(last, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} cannot get a head a task: its last layer, {name!r}, is no nn.Linear. "
            "Give a MultiTaskModule, or a benchmark with return_task_id=false."
        )
    heads = as_multitask(model, name)
    getattr(heads, name).masking = False
    return heads
