"""The room as a whole: its names, and what it does without."""

import subprocess
import sys

import pytest
from scipy import stats

from avalanche_mgem import runs
from avalanche_mgem.runs import CONSTRAINT_METRICS, COSTS, LABELS, METRICS, VALID_ACC, mean_interval


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        ("avalanche_mgem.runs", {"torch", "avalanche", "hydra", "pandas", "matplotlib", "scipy"}),
        ("avalanche_mgem.report", {"torch", "avalanche", "hydra", "pandas", "matplotlib", "scipy"}),
        (
            "avalanche_mgem.report.write, avalanche_mgem.report.closing",
            {"torch", "avalanche", "hydra", "wandb", "matplotlib.pyplot"},  # a report needs no display
        ),
        (
            "avalanche_mgem.experiment.main, avalanche_mgem.experiment._sweep",
            {"torch", "avalanche", "pandas"},
        ),
    ],
)
def test_what_is_not_needed_is_not_imported(imports: str, absent: set[str]) -> None:
    code = f"import sys, {imports}; print('numpy' in sys.modules, sorted({absent} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = imports != "avalanche_mgem.report"  # which imports nothing before it is asked
    assert done.stdout.strip() == f"{loaded} []"


def test_every_public_name_is_there() -> None:
    assert sorted(runs.__all__) == sorted(set(runs.__all__))
    for name in runs.__all__:
        assert getattr(runs, name) is not None


def test_every_number_of_a_run_has_a_label() -> None:
    names = (*METRICS, VALID_ACC, *COSTS, *CONSTRAINT_METRICS)
    assert sorted(LABELS) == sorted(names)
    assert len(set(LABELS.values())) == len(names)
    assert all(name.islower() and name.replace("_", "").isalpha() for name in names)


def test_an_interval_is_students() -> None:
    values = [0.81, 0.79, 0.84]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    mean = mean_interval(values)
    assert mean.n == 3
    assert (mean.mean, mean.half_width) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert mean_interval([0.5, 0.5]).half_width == 0


def test_too_few_values_have_no_interval() -> None:
    assert (mean_interval([]).mean, mean_interval([]).half_width, mean_interval([]).n) == (None, None, 0)
    assert (mean_interval([0.5]).mean, mean_interval([0.5]).half_width) == (0.5, None)
