from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import degenerate_duals, gradients, kkt_residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avalanche_mgem.functional import dual
from avalanche_mgem.solvers import SOLVERS, diagonal, exact, get_solver, quadprog

NUM_PROBLEMS = 10_000  # a module of a batch is a problem


def batches(seed: int, num_problems: int = NUM_PROBLEMS) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Degenerate duals of all kinds, until there are so many problems."""
    found = 0
    for K, b, gamma in degenerate_duals(num_problems, seed):
        yield K, b, gamma
        found += len(K)
        if found >= num_problems:
            return
    pytest.fail(f"only {found} problems")


def in_float32(K: Tensor, b: Tensor) -> bool:
    """Whether ``gram`` would leave these products in float32."""
    squares = K.float().diagonal(dim1=-2, dim2=-1)
    return bool(
        torch.isfinite(K.float()).all() and torch.isfinite(b.float()).all() and (squares >= 1e-30).all()
    )


@pytest.mark.parametrize("solver", [exact, quadprog])
def test_exact_solvers_meet_kkt_on_degenerate_problems(solver):
    for K, b, gamma in batches(seed=1):
        v = dual(K, b, memory_strength=gamma, solver=solver)
        assert torch.isfinite(v).all()
        assert (v >= gamma).all()
        assert kkt_residual(K, b, gamma, v) <= 1e-6


@pytest.mark.parametrize("solver", [exact, quadprog])
def test_exact_solvers_survive_the_rounding_of_float32(solver):
    problems = [p for p in batches(seed=3, num_problems=4000) if in_float32(*p[:2])]
    assert sum(len(K) for K, *_ in problems) >= 3000  # most of the others have rows of zeros
    for K, b, gamma in problems:
        v = dual(K.float(), b.float(), memory_strength=gamma, solver=solver)
        assert torch.isfinite(v).all()
        assert (v >= gamma).all()
        assert kkt_residual(K.float().double(), b.float().double(), gamma, v.double()) <= 1e-4


def test_the_diagonal_solver_stays_finite_and_above_gamma():
    for K, b, gamma in batches(seed=2):
        v = dual(K, b, memory_strength=gamma, solver=diagonal)
        assert torch.isfinite(v).all()
        assert (v >= gamma).all()


def test_the_kkt_residual_sees_a_wrong_solution():
    g, G = gradients(0)
    K, b = (G @ G.T)[None], (G @ g)[None]
    v = dual(K, b, memory_strength=0.1, solver=exact)
    assert kkt_residual(K, b, 0.1, v) < 1e-8
    assert kkt_residual(K, b, 0.1, 1.01 * v) > 1e-4
    assert kkt_residual(K, b, 0.1, v - 0.01) > 1e-4


@given(seed=st.integers(0, 10_000), K=st.integers(1, 20))
@settings(max_examples=60)
def test_daqp_and_quadprog_agree(seed, K):
    g, G = gradients(seed, K, P=30)
    arguments = ((G @ G.T)[None], (G @ g)[None])
    torch.testing.assert_close(
        dual(*arguments, memory_strength=0.3, solver=exact),
        dual(*arguments, memory_strength=0.3, solver=quadprog),
        rtol=1e-6,
        atol=1e-9,
    )


def test_diagonal_is_the_formula_of_the_paper():
    g, G = gradients(3)
    v = dual((G @ G.T)[None], (G @ g)[None], memory_strength=0.2, solver=diagonal)[0]
    expected = [max(0.2, -(g @ row / row.norm() ** 2).item()) for row in G]
    torch.testing.assert_close(v, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_leaves_its_arguments_alone(name):
    g, G = gradients(6)
    arguments = (G @ G.T).numpy(), (G @ g).numpy(), np.full(6, 0.1)
    before = [x.copy() for x in arguments]
    SOLVERS[name](*arguments)
    assert all(np.array_equal(x, y) for x, y in zip(arguments, before, strict=True))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_keeps_the_bound(name):
    g, G = gradients(7)
    lower = np.full(6, 1 / 3)
    v = SOLVERS[name]((G @ G.T).numpy(), (G @ g).numpy(), lower)
    assert (v.dtype, v.shape) == (np.float64, (6,))
    assert (v >= lower).all()
    assert (v == lower).any()  # some are at their bound, to the last bit


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_takes_arrays_of_every_layout(name):
    g, G = gradients(7)
    K, b, lower = (G @ G.T).numpy(), (G @ g).numpy(), np.linspace(0.1, 0.6, 6)
    elsewhere = [np.repeat(x, 2, axis=-1)[..., ::2] for x in (K, b, lower)]
    np.testing.assert_array_equal(SOLVERS[name](*elsewhere), SOLVERS[name](K, b, lower))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_multipliers_keep_the_bound_and_the_precision(name, dtype):
    g, G = gradients(7)
    K, b = (G @ G.T)[None].to(dtype), (G @ g)[None].to(dtype)
    v = dual(K, b, memory_strength=1 / 3, solver=SOLVERS[name])
    assert (v.dtype, v.shape) == (dtype, (1, 6))
    assert (v >= torch.tensor(1 / 3, dtype=dtype)).all()
    assert (v == torch.tensor(1 / 3, dtype=dtype)).any()


def test_orthogonal_constraints_make_diagonal_exact():
    G = torch.linalg.qr(torch.randn(20, 5, dtype=torch.float64)).Q.T
    g = torch.randn(20, dtype=torch.float64)
    arguments = ((G @ G.T)[None], (G @ g)[None])
    torch.testing.assert_close(
        dual(*arguments, memory_strength=0.0, solver=diagonal),
        dual(*arguments, memory_strength=0.0, solver=exact),
        rtol=1e-7,
        atol=1e-8,
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_zero_row_gets_exactly_gamma(name):
    K, b = torch.zeros(1, 2, 2), torch.tensor([[0.0, -1.0]])
    K[0, 1, 1] = 4.0
    v = dual(K, b, memory_strength=0.1, solver=SOLVERS[name])
    torch.testing.assert_close(v, torch.tensor([[0.1, 0.25]]))


def test_a_solver_is_found_by_its_name_or_given():
    assert [get_solver(name) for name in ("exact", "quadprog", "diagonal")] == [exact, quadprog, diagonal]
    assert get_solver(kkt_residual) is kkt_residual


@pytest.mark.parametrize("name", ["cvxopt", "hildreth", "exact ", "", 3, None, ["exact"]])
def test_unknown_solver_is_named_with_what_is_allowed(name):
    with pytest.raises(
        ValueError, match=r"unknown solver .* allowed are 'exact', 'quadprog', 'diagonal' or a function"
    ):
        get_solver(name)


@pytest.mark.parametrize("solver", [exact, quadprog])
def test_what_rounding_has_made_indefinite_is_solved(solver):
    K, b = np.array([[1.0, 1 + 1e-7], [1 + 1e-7, 1.0]]), np.array([-1.0, -1.0])
    v = solver(K, b, np.zeros(2))
    assert kkt_residual(*(torch.from_numpy(x)[None] for x in (K, b)), 0.0, torch.from_numpy(v)[None]) <= 1e-5


def test_quadprog_reports_what_it_cannot_solve():
    with pytest.raises(FloatingPointError, match="quadprog found no solution"):
        quadprog(-np.eye(2), np.zeros(2), np.zeros(2))
