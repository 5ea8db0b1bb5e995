"""What comes before a model: the checks of a configuration, and its benchmark."""

from collections.abc import Callable, Iterable
from math import prod
from numbers import Integral
from typing import Any

import torch
from avalanche.benchmarks import CLScenario, with_classes_timeline
from omegaconf import DictConfig, OmegaConf, open_dict

from avalanche_mgem.data import damaged_file, missing_file, preload_with_note, split_validation, subsample
from avalanche_mgem.experiment.errors import say
from avalanche_mgem.experiment.settings import build, check_settings
from avalanche_mgem.runs import UserError, one_line

Built = tuple[dict[str, Any], Any]
"""What a model must know of a benchmark, and the benchmark."""


def prepare(cfg: DictConfig, build: Callable[[DictConfig], Built] | None = None) -> tuple[DictConfig, Any]:
    """Checks a configuration, builds its benchmark, and fills in what a model must know of it.

    Args:
        cfg: what :func:`~avalanche_mgem.experiment.compose` gives; it stays as it is.
        build: in place of :func:`build_benchmark`, which None (default) takes.

    Returns:
        A complete configuration, which is read-only from here on, and the benchmark.

    Raises:
        UserError: for a value that is not allowed, a benchmark that does not fit, or data that is missing.
    """
    cfg = cfg.copy()
    OmegaConf.set_readonly(cfg, False)  # it may come from an earlier call
    check_settings(cfg)
    _is_preloaded(cfg)
    cfg.inferred, benchmark = (build or build_benchmark)(cfg)
    OmegaConf.set_readonly(cfg, True)
    return cfg, benchmark


def build_benchmark(cfg: DictConfig) -> Built:
    """The benchmark of a configuration whose settings are checked, and what a model must know of it."""
    benchmark = _benchmark(cfg)
    inferred = _inferred(str(cfg.benchmark._target_), benchmark)
    _check_memory_strength(cfg, inferred["n_experiences"])
    benchmark = subsample(
        benchmark, cfg.samples_per_experience, cfg.test_samples_per_experience, seed=cfg.seed
    )
    if cfg.get("validation") is not None:
        # After the subset: a protocol of 1,000 samples an experience has no more of them for it.
        benchmark = _with_validation(cfg, benchmark)
    if _is_preloaded(cfg):
        benchmark, note = preload_with_note(benchmark, cfg.device if _is_cuda(cfg) else None)
        if note:
            say(note)
    return inferred, benchmark


def loader_options(cfg: DictConfig) -> dict[str, bool]:
    """Keyword arguments for a strategy's ``train`` and ``eval``. Images on the GPU cannot be pinned."""
    return {"pin_memory": _is_cuda(cfg) and not _is_preloaded(cfg)}


def _benchmark(cfg: DictConfig) -> Any:
    """Builds the whole benchmark, and checks that mgem can train and test on it."""
    name = str(cfg.benchmark._target_).rpartition(".")[2]
    node = cfg.benchmark.copy()
    with open_dict(node):
        node.pop("preload", None)
    # Before the download too: torchvision replaces what it finds damaged, or takes it as it is.
    if problem := damaged_file(name, cfg.dataset_root, checksums=False):
        raise UserError(f"{name} cannot read {problem}")
    try:
        benchmark = build("benchmark", node, CLScenario)
    except UserError as error:
        path = missing_file(name, cfg.dataset_root)
        if path is None:
            if problem := damaged_file(name, cfg.dataset_root):
                raise UserError(f"{name} cannot read {problem}") from error
            raise
        file, reason = path.relative_to(cfg.dataset_root), one_line(error.__cause__ or error)
        raise UserError(
            f"{name} needs the file {file} in the folder {cfg.dataset_root}; put it there or set "
            f"dataset_root (it is missing, and the download failed: {reason})"
        ) from error
    if missing := {"train", "test"} - benchmark.streams.keys():
        raise UserError(f"benchmark ({node._target_}): it has no {sorted(missing)[0]} stream")
    try:
        train, test = len(benchmark.train_stream), len(benchmark.test_stream)
    except TypeError as error:
        raise UserError(
            f"benchmark ({node._target_}): its streams have no length; mgem needs lists of experiences"
        ) from error
    if not train:
        raise UserError(f"benchmark ({node._target_}): it has no experiences")
    if train != test:
        raise UserError(f"{name} has {train} training and {test} test experiences; mgem needs one for one")
    if not hasattr(benchmark.train_stream[0], "classes_in_this_experience"):
        try:
            benchmark = with_classes_timeline(benchmark)
        except (AttributeError, TypeError) as error:
            raise UserError(_no_labels(node._target_, "its data sets have no targets")) from error
    return benchmark


def _with_validation(cfg: DictConfig, benchmark: Any) -> Any:
    try:
        return split_validation(benchmark, cfg.validation, seed=cfg.seed)
    except ValueError as error:
        reason = str(error).removeprefix(f"fraction={cfg.validation}: ")
        raise UserError(f"validation={cfg.validation}: {reason}") from error


def _no_labels(target: str, reason: str) -> str:
    return f"benchmark ({target}): {reason}; mgem trains classifiers, whose targets are the integers from 0"


def _inferred(target: str, benchmark: Any) -> dict[str, Any]:
    """What a model must know of the benchmark, and how much data there is.

    It does not use ``benchmark.n_classes``: permuted MNIST counts its ten classes again in each experience.

    Raises:
        UserError: for data on which mgem cannot train or test.
    """
    streams = {"training": benchmark.train_stream, "test": benchmark.test_stream}
    highest = max(_highest_class(target, name, stream) for name, stream in streams.items())
    shapes = {name: _image_shape(target, name, stream) for name, stream in streams.items()}
    shape = shapes["training"]
    if shapes["test"] != shape:
        raise UserError(
            f"benchmark ({target}): its training images are {shape} and its test images {shapes['test']}"
        )
    return {
        "num_classes": 1 + highest,
        "input_shape": shape,
        "input_size": prod(shape),
        "n_experiences": len(benchmark.train_stream),
        "n_samples": [sum(len(experience.dataset) for experience in stream) for stream in streams.values()],
    }


def _highest_class(target: str, name: str, stream: Iterable[Any]) -> int:
    highest = 0
    for number, experience in enumerate(stream):
        where = f"benchmark ({target}): {name} experience {number}"
        if len(experience.dataset) == 0:
            raise UserError(f"{where} has no samples")
        for label in experience.classes_in_this_experience or ():
            if isinstance(label, bool) or not isinstance(label, Integral) or int(label) < 0:
                raise UserError(_no_labels(target, f"{name} experience {number} has the target {label}"))
            highest = max(highest, int(label))
    return highest


def _image_shape(target: str, name: str, stream: Any) -> list[int]:
    try:
        image, label = stream[0].dataset[0][:2]
    except Exception as error:  # of any data set and its transforms
        raise UserError(
            f"benchmark ({target}): the first {name} sample cannot be read as image and class: "
            f"{one_line(error)}"
        ) from error
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):
        transform = "train_transform" if name == "training" else "eval_transform"
        raise UserError(
            f"benchmark: {transform} must return a float tensor; let it end in torchvision's ToTensor and "
            "Normalize"
        )
    if not isinstance(label, Integral) and not (
        isinstance(label, torch.Tensor) and label.dim() == 0 and not label.is_floating_point()
    ):
        raise UserError(_no_labels(target, f"its first {name} sample has the target {one_line(str(label))}"))
    return list(image.shape)


def _check_memory_strength(cfg: DictConfig, n_experiences: int) -> None:
    """Refuses a list with too few values before the training, which would end in its last experiences."""
    values = cfg.strategy.get("memory_strength")
    if OmegaConf.is_list(values) and len(values) < n_experiences:
        raise UserError(
            f"strategy.memory_strength has {len(values)} values for {n_experiences} experiences; give one "
            "for each"
        )


def _is_cuda(cfg: DictConfig) -> bool:
    return str(cfg.device).startswith("cuda")


def _is_preloaded(cfg: DictConfig) -> bool:
    value = cfg.benchmark.get("preload", True)
    if not isinstance(value, bool):
        raise UserError(f"benchmark.preload={value}: it must be true or false")
    return value
