from pathlib import Path

from omegaconf import OmegaConf

from avalanche_mgem.runs import Result, write_run

RESULT = Result(
    [[0.1, 0.2], [0.9, 0.1], [0.7, 1 / 3]], 1.0, 2.0, 3.0, 4.0, {"strategy": "gem", "benchmark": "b"}, seed=4
)
GROUPS = {group: {"_target_": f"a.{group}"} for group in ("benchmark", "strategy", "model", "optimizer")}
CFG = OmegaConf.create({"seed": 4, "device": "cpu", "again": "${seed}", **GROUPS})


def write(folder: Path) -> None:
    write_run(folder, CFG, RESULT, {"overrides": ["seed=4"]})
