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
    """

    def before_eval_exp(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Replaces the loader of a preloaded dataset."""
        loader = strategy.dataloader
        is_plain = type(loader) is SingleDatasetDataLoader and not loader.distributed_sampling
        if is_plain and loader.loader_kwargs.get("collate_fn") is collate:
            (dataset,), (size,) = loader.datasets, loader.batch_sizes
            strategy.dataloader = DataLoader(dataset, batch_size=size, **loader.loader_kwargs)
