"""Gives a network with a single head one head for each task."""

from avalanche.models import MultiTaskModule, as_multitask
from torch import nn


def multi_head(model: nn.Module) -> MultiTaskModule:
    """Replaces the last layer of a network by Avalanche's ``MultiHeadClassifier``, which has a head a task.

    All heads have as many outputs as the last layer, so a minibatch may mix tasks. No output is masked.
    Avalanche's default masks every output that a head was not trained on. Then an untrained head returns a
    constant, and the accuracy before training means nothing, nor does the forward transfer.

    Args:
        model: a network whose last layer is an ``nn.Linear``. The layer is an attribute of the network, or
            the only layer of an ``nn.Sequential`` that is one. The network is changed. A ``MultiTaskModule``
            is returned as it is.

    Returns:
        A network whose ``forward`` takes ``(x, task_labels)``.

    Raises:
        ValueError: if the last layer of the network is not an ``nn.Linear``.

    Example:
        >>> from avalanche.models import SimpleMLP
        >>> type(multi_head(SimpleMLP(num_classes=2)).classifier).__name__
        'MultiHeadClassifier'
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
