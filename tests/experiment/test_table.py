import numpy as np
import pytest
from scipy import stats

from avalanche_mgem.experiment.table import mean_interval, print_run, print_sweep, run_line

SUMMARY = {
    "acc": 0.8, "bwd": -0.1, "la": 0.9, "fwt": 0.01, "forgetting": 0.1, "seconds_train": 1234.5,
    "seconds_eval": 2.0, "seconds_data": 1.0, "strategy": "dmgem", "benchmark": "permuted_digits", "seed": 3,
}  # fmt: skip


def test_interval_is_students() -> None:
    values = [0.81, 0.79, 0.84]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values, 4) == f"{(low + high) / 2:.4f}±{(high - low) / 2:.4f}"


def test_no_interval_for_one_run_and_nothing_for_none() -> None:
    assert mean_interval([0.5], 2) == "0.50"
    assert mean_interval([None, None], 2) == "-"


@pytest.mark.parametrize("experiences", [1, 10, 20])
def test_run_fits_80_columns_and_shows_every_experience(
    experiences: int, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = np.linspace(0, 0.999, (experiences + 1) * experiences).reshape(experiences + 1, experiences)
    print_run(SUMMARY, matrix.tolist(), "runs/x")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for number in range(experiences):
        assert f"{matrix[number + 1, number]:.3f}" in out
        assert f"{matrix[-1, number]:.3f}" in out
    assert out.endswith("results: runs/x\n")


def test_joint_training_is_shown_with_its_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    summary = SUMMARY | {"bwd": None, "la": None, "fwt": None, "forgetting": None}
    print_run(summary, [[0.1, 0.2], [0.7, 0.9]], "runs/x")
    assert capsys.readouterr().out.split().count("-") == 4
    assert "BWD -" in run_line(summary)


def test_sweep_groups_by_name_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    name = "dmgem num_groups=4 memory_strength=0.25"
    runs = [(name, SUMMARY | {"acc": accuracy}) for accuracy in (0.7, 0.8, 0.9)]
    print_sweep([*runs, ("gem", SUMMARY)], "permuted_digits")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "0.800±0.248" in out
    assert " num_groups=4 " in out
