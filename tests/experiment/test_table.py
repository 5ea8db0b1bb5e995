import numpy as np
import pytest

from avalanche_mgem.experiment.table import print_run, run_line

SUMMARY = {
    "acc": 0.8, "bwd": -0.1, "la": 0.9, "fwt": 0.01, "forgetting": 0.1, "seconds_train": 1234.5,
    "seconds_eval": 2.0, "seconds_data": 1.0, "strategy": "dmgem", "benchmark": "permuted_digits", "seed": 3,
}  # fmt: skip


@pytest.mark.parametrize("experiences", [1, 10, 20])
def test_run_fits_80_columns_and_shows_every_experience(
    experiences: int, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = np.linspace(0, 0.999, (experiences + 1) * experiences).reshape(experiences + 1, experiences)
    print_run(SUMMARY, matrix.tolist(), "runs/x", threads=2)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for number in range(experiences):
        assert f"{matrix[number + 1, number]:.3f}" in out
        assert f"{matrix[-1, number]:.3f}" in out
    assert out.endswith("threads: 2\nresults: runs/x\n")


def test_joint_training_is_shown_with_its_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    summary = SUMMARY | {"bwd": None, "la": None, "fwt": None, "forgetting": None}
    print_run(summary, [[0.1, 0.2], [0.7, 0.9]], "runs/x", threads=2)
    assert capsys.readouterr().out.split().count("-") == 4
    assert "BWD -" in run_line(summary)
