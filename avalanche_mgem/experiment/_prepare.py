"""What comes before a model: the checks of a configuration, and its benchmark."""

import sys
from math import prod
from typing import Any

import torch
from avalanche.benchmarks import CLScenario, with_classes_timeline
from omegaconf import DictConfig, OmegaConf, open_dict

from avalanche_mgem.data import missing_file, preload_with_note, subsample
from avalanche_mgem.experiment.errors import one_line
from avalanche_mgem.experiment.settings import build, check_settings
from avalanche_mgem.runs import UserError


def prepare(cfg: DictConfig) -> tuple[DictConfig, Any]:
    """Checks a configuration, builds its benchmark, and fills in what a model must know of it.

    Args:
        cfg: what :func:`~avalanche_mgem.experiment.compose` gives; it stays as it is.

    Returns:
        A complete configuration, which is read-only from here on, and the benchmark.

    Raises:
        UserError: for a value that is not allowed, a benchmark that does not fit, or data that is missing.
    """
    cfg = cfg.copy()
    OmegaConf.set_readonly(cfg, False)  # it may come from an earlier call
    check_settings(cfg)
    is_preloaded = _is_preloaded(cfg)
    benchmark = _benchmark(cfg)
    cfg.inferred = _inferred(benchmark)
    OmegaConf.set_readonly(cfg, True)
    benchmark = subsample(
        benchmark, cfg.samples_per_experience, cfg.test_samples_per_experience, seed=cfg.seed
    )
    if is_preloaded:
        benchmark, note = preload_with_note(benchmark, cfg.device if _is_cuda(cfg) else None)
        if note:
            sys.stderr.write(f"mgem: {note}\n")
    return cfg, benchmark


def loader_options(cfg: DictConfig) -> dict[str, bool]:
    """Keyword arguments for a strategy's ``train`` and ``eval``. Images on the GPU cannot be pinned."""
    return {"pin_memory": _is_cuda(cfg) and not _is_preloaded(cfg)}


def _benchmark(cfg: DictConfig) -> Any:
    """Builds the whole benchmark, and checks that mgem can train and test on it."""
    name = str(cfg.benchmark._target_).rpartition(".")[2]
    node = cfg.benchmark.copy()
    with open_dict(node):
        node.pop("preload", None)
    try:
        benchmark = build("benchmark", node, CLScenario)
    except UserError as error:
        path = missing_file(name, cfg.dataset_root)
        if path is None:
            raise
        file, reason = path.relative_to(cfg.dataset_root), one_line(error.__cause__ or error)
        raise UserError(
            f"{name} needs the file {file} in the folder {cfg.dataset_root}; put it there or set "
            f"dataset_root (it is missing, and the download failed: {reason})"
        ) from error
    if missing := {"train", "test"} - benchmark.streams.keys():
        raise UserError(f"benchmark ({node._target_}): it has no {sorted(missing)[0]} stream")
    train, test = len(benchmark.train_stream), len(benchmark.test_stream)
    if train != test:
        raise UserError(f"{name} has {train} training and {test} test experiences; mgem needs one for one")
    if not hasattr(benchmark.train_stream[0], "classes_in_this_experience"):
        benchmark = with_classes_timeline(benchmark)
    return benchmark


def _inferred(benchmark: Any) -> dict[str, Any]:
    """What a model must know of the benchmark, and how much data there is.

    It does not use ``benchmark.n_classes``: permuted MNIST counts its ten classes again in each experience.
    """
    classes = (max(experience.classes_in_this_experience) for experience in benchmark.train_stream)
    image = benchmark.train_stream[0].dataset[0][0]
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):
        raise UserError(
            "benchmark: train_transform must return a float tensor; let it end in torchvision's ToTensor and "
            "Normalize"
        )
    shape = list(image.shape)
    streams = benchmark.train_stream, benchmark.test_stream
    return {
        "num_classes": 1 + max(classes),
        "input_shape": shape,
        "input_size": prod(shape),
        "n_experiences": len(benchmark.train_stream),
        "n_samples": [sum(len(experience.dataset) for experience in stream) for stream in streams],
    }


def _is_cuda(cfg: DictConfig) -> bool:
    return str(cfg.device).startswith("cuda")


def _is_preloaded(cfg: DictConfig) -> bool:
    value = cfg.benchmark.get("preload", True)
    if not isinstance(value, bool):
        raise UserError(f"benchmark.preload={value}: it must be true or false")
    return value
