import avalanche.evaluation.metrics as am
import numpy as np
import pytest
import torch
from avalanche.logging import BaseLogger
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avalanche_mgem.benchmarks import PermutedDigits
from avalanche_mgem.data import subsample
from avalanche_mgem.runs import acc, all_metrics, bwd, forgetting, fwt, la

# Row 0 is the untrained model.
R = [
    [0.10, 0.20, 0.10],
    [0.90, 0.30, 0.10],
    [0.80, 0.70, 0.40],
    [0.60, 0.75, 0.95],
]


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    T = draw(st.integers(2, 6))
    return draw(arrays(float, (T + 1, T), elements=st.floats(0, 1)))


def test_by_hand() -> None:
    assert acc(R) == pytest.approx((0.60 + 0.75 + 0.95) / 3)
    assert bwd(R) == pytest.approx(((0.60 - 0.90) + (0.75 - 0.70)) / 2)
    assert la(R) == pytest.approx((0.90 + 0.70 + 0.95) / 3)
    assert fwt(R) == pytest.approx(((0.30 - 0.20) + (0.40 - 0.10)) / 2)
    assert forgetting(R) == pytest.approx(0.125)


def test_one_experience_has_no_transfer() -> None:
    assert all_metrics([[0.1], [0.9]]) == {
        "acc": 0.9,
        "bwd": None,
        "la": 0.9,
        "fwt": None,
        "forgetting": None,
    }


def test_joint_training_has_accuracy_only() -> None:
    metrics = all_metrics([[0.1, 0.1, 0.1], [0.6, 0.7, 0.8]])
    assert metrics.pop("acc") == pytest.approx(0.7)
    assert metrics == {"bwd": None, "la": None, "fwt": None, "forgetting": None}


@given(matrices())
def test_bounds_and_the_link_between_metrics(R: np.ndarray) -> None:
    T = R.shape[1]
    assert 0 <= acc(R) <= 1
    assert 0 <= la(R) <= 1
    assert -1 <= bwd(R) <= 1
    assert -1 <= fwt(R) <= 1
    assert forgetting(R) == -bwd(R)
    # What was learnt plus what happened to it since is what is there at the end.
    assert acc(R) == pytest.approx(la(R) + (T - 1) / T * bwd(R), abs=1e-12)


@given(matrices())
def test_nothing_lost_means_zero(R: np.ndarray) -> None:
    R[-1] = np.diagonal(R[1:])
    assert bwd(R) == 0
    assert str(forgetting(R)) == "0.0"


@given(matrices(), st.floats(-1, 1))
def test_fwt_is_relative_to_the_untrained_model(R: np.ndarray, shift: float) -> None:
    moved = R.copy()
    moved[0] += shift
    assert fwt(moved) == pytest.approx(fwt(R) - shift, abs=1e-12)


def test_forgetting_is_avalanches() -> None:
    benchmark = subsample(PermutedDigits(3, seed=0), 200, seed=0)
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=50, drop_rate=0)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.2),
        train_mb_size=10,
        evaluator=EvaluationPlugin(
            am.accuracy_metrics(experience=True), am.forgetting_metrics(stream=True), loggers=[BaseLogger()]
        ),
    )
    rows = []
    for experience in [None, *benchmark.train_stream]:
        if experience is not None:
            strategy.train(experience)
        last = strategy.eval(benchmark.test_stream)
        rows.append([last[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp00{j}"] for j in range(3)])
    theirs = last["StreamForgetting/eval_phase/test_stream"]
    assert theirs > 0.05
    assert forgetting(rows) == pytest.approx(theirs)
