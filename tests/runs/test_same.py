from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from runs.conftest import CFG, RESULT

from avalanche_mgem.experiment import compose
from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.report import load_results
from avalanche_mgem.report.results import combine, method_settings
from avalanche_mgem.runs import (
    Run,
    UserError,
    check_same_run,
    differences,
    flatten,
    makes_another_run,
    read_run,
    write_run,
)
from avalanche_mgem.runs._keys import without_added


def keys_of_the_package() -> list[str]:
    """Every key that some option of some group has and that a user can set.

    From the files: to compose them all would take seconds in the collection.
    """
    # What the command fills in itself nobody can ask for: a report takes it from the folder.
    of_hydra_or_mgem = ("defaults", "hydra.", "inferred.")
    keys = {key for key in keys_of("config.yaml") if not key.startswith(of_hydra_or_mgem)}
    for group in ("benchmark", "strategy", "model", "optimizer", "logger"):
        for path in (config_folder() / group).rglob("*.yaml"):
            keys |= {f"{group}.{key}" for key in keys_of(path) if key != "defaults"}
    return sorted(keys)


def keys_of(file: str | Path) -> list[str]:
    return list(flatten(OmegaConf.to_container(OmegaConf.load(config_folder() / file))))


def changed(cfg: DictConfig, key: str) -> DictConfig:
    """The configuration with another value of the key, which it need not have."""
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    OmegaConf.update(cfg, key, {"seed": 7}.get(key, "another"), force_add=True)
    return cfg


def is_one_to_a_report(*runs: Run) -> bool:
    try:
        combine(runs, method_settings(runs), {})
    except ValueError as error:
        return "two runs of" in str(error)
    return False


def is_one_run_to_mgem(folder: Path, other: DictConfig) -> bool:
    try:
        check_same_run(folder, other)
    except UserError as error:
        return "holds a run with another" not in str(error)
    return True


def is_one_run_to_the_report(*folders: Path) -> bool:
    try:
        load_results(*folders)
    except ValueError as error:
        return "two runs of" in str(error)
    return False


def write(folder: Path, cfg: DictConfig) -> None:
    result = replace(RESULT, names=dict(cfg.names), seed=cfg.seed)
    folder.mkdir()
    write_run(folder, cfg, result, {"torch": "2.15"})


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(compose("strategy=dmgem", "logger=wandb"), resolve=True))


@pytest.fixture(scope="module")
def run_of_base(base: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same") / "base"
    write(folder, base)
    return folder


@pytest.fixture(scope="module")
def read_of_base(run_of_base: Path) -> Run:
    return read_run(run_of_base)


IN_COLUMNS = ("seed", "names.strategy")  # a run has them beside its configuration


@pytest.mark.parametrize("key", [key for key in keys_of_the_package() if key not in IN_COLUMNS])
def test_mgem_and_its_report_agree_on_what_makes_another_run(
    base: DictConfig, read_of_base: Run, key: str
) -> None:
    """A sweep over a key is several runs to both, or one to both."""
    other = changed(base, key)
    found = not differences(OmegaConf.to_container(base), other)
    assert found == (not makes_another_run(key))
    config = without_added(flatten(OmegaConf.to_container(other)))
    assert is_one_to_a_report(read_of_base, replace(read_of_base, path=Path("other"), config=config)) == found


@pytest.mark.parametrize("key", [*IN_COLUMNS, "optimizer.lr", "model._target_", "device", "logger.csv.x"])
def test_they_agree_on_folders_too(tmp_path: Path, base: DictConfig, run_of_base: Path, key: str) -> None:
    other = changed(base, key)
    write(tmp_path / "other", other)
    found = is_one_run_to_mgem(run_of_base, other)
    assert found == (not makes_another_run(key))
    assert is_one_run_to_the_report(run_of_base, tmp_path / "other") == found


def test_the_keys_of_the_package_are_those_of_its_compositions() -> None:
    cfg = compose("strategy=er_gem", "benchmark=split_cifar100", "model=paper_cnn", "logger=[csv,wandb]")
    composed = {key for key in flatten(OmegaConf.to_container(cfg)) if not key.startswith("inferred.")}
    assert composed <= set(keys_of_the_package())


@pytest.mark.parametrize(
    "key",
    [
        *("benchmark.preload", "strategy.memory_device", "channels_last", "device", "dataset_root"),
        *("eval_mb_size", "eval_keep_mib", "output_dir", "logger", "logger.wandb.project", "names.benchmark"),
    ],
)
def test_machine_folders_and_logs_make_no_other_run(key: str) -> None:
    assert not makes_another_run(key)


@pytest.mark.parametrize(
    "key",
    [
        *("seed", "strategy.seed", "benchmark.seed", "strategy.memory_strength", "optimizer.lr"),
        *("model.hidden_size", "train_epochs", "names.strategy", "strategy._target_"),
        *("gap_patterns_per_exp", "gap_every"),  # a run without the gap cannot stand for one with it
    ],
)
def test_what_is_learnt_or_measured_makes_another_run(key: str) -> None:
    assert makes_another_run(key)


def test_the_same_run_is_known_by_its_settings(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {**CFG, "model": {"_target_": "a.m", "n": "${inferred.n}"}, "inferred": {"n": None}, "logger": {}}
    )
    used = cfg.copy()
    used.inferred.n = 10
    write_run(tmp_path, used, RESULT, {})
    check_same_run(tmp_path, cfg)
    check_same_run(tmp_path, OmegaConf.merge(cfg, {"device": "cuda", "logger": {"csv": {"a": 1}}}))
    with pytest.raises(UserError, match=r"another x \(absent there, null here\);"):
        check_same_run(tmp_path, OmegaConf.merge(cfg, {"x": None}))
    with pytest.raises(UserError, match=r"another seed \(4 there, 5 here\), x \(absent there, 1 here\);"):
        check_same_run(tmp_path, OmegaConf.merge(cfg, {"seed": 5, "x": 1}))
