"""Evaluation with torch's loader in place of Avalanche's."""

from typing import Any

from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from avalanche.core import SupervisedPlugin
from torch.utils.data import DataLoader

from avalanche_mgem.data._batches import collate


class BatchedEvaluation(SupervisedPlugin):  # type: ignore[misc]
    """Evaluates preloaded benchmarks with torch's own loader. The minibatches stay the same.

    Avalanche's loader first follows each sample through the subsets and concatenations of its dataset, to
    find a faster way. Then it asks for one sample after the other. Both take longer than a small network
    takes to evaluate the samples.

    Example:
        >>> import torch
        >>> from avalanche.training import Naive
        >>> from avalanche_mgem.benchmarks import SplitDigits
        >>> from avalanche_mgem.data import preload
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> strategy = Naive(model=model, optimizer=sgd, plugins=[BatchedEvaluation()], evaluator=None)
        >>> results = strategy.eval(preload(SplitDigits(5, seed=0)).test_stream)
    """

    def before_eval_exp(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Replaces the loader of a preloaded dataset."""
        loader = strategy.dataloader
        is_plain = type(loader) is SingleDatasetDataLoader and not loader.distributed_sampling
        if is_plain and loader.loader_kwargs.get("collate_fn") is collate:
            (dataset,), (size,) = loader.datasets, loader.batch_sizes
            strategy.dataloader = DataLoader(dataset, batch_size=size, **loader.loader_kwargs)
