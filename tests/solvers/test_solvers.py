import pytest
import torch
from helpers import degenerate_duals, gradients, kkt_residual
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_mgem.functional import dual
from avalanche_mgem.solvers import SOLVERS, diagonal, exact, get_solver, hildreth, quadprog

NUM_PROBLEMS = 10_000


@pytest.mark.parametrize("solver", [exact, quadprog])
def test_exact_solvers_meet_kkt_on_degenerate_problems(solver):
    worst = 0.0
    for K, b, gamma in degenerate_duals(NUM_PROBLEMS, seed=1):
        v = dual(K, b, memory_strength=gamma, solver=solver)
        assert torch.isfinite(v).all()
        assert (v >= gamma).all()
        worst = max(worst, kkt_residual(K, b, gamma, v))
    assert worst <= 1e-6


@pytest.mark.parametrize("solver", [exact, quadprog])
def test_exact_solvers_survive_the_rounding_of_float32(solver):
    for K, b, gamma in degenerate_duals(2000, seed=3):
        K, b = K.float(), b.float()
        usable = torch.isfinite(K).all() and (K.diagonal(dim1=-2, dim2=-1) >= 1e-30).all()
        if usable:  # gram would have accumulated the others in float64
            v = dual(K, b, memory_strength=gamma, solver=solver)
            assert torch.isfinite(v).all()
            assert (v >= gamma).all()
            assert kkt_residual(K.double(), b.double(), gamma, v.double()) <= 1e-4


@pytest.mark.parametrize(("name", "num_problems"), [("diagonal", NUM_PROBLEMS), ("hildreth:3", NUM_PROBLEMS)])
def test_approximate_solvers_stay_finite_and_above_gamma(name, num_problems):
    for K, b, gamma in degenerate_duals(num_problems, seed=2):
        v = dual(K, b, memory_strength=gamma, solver=get_solver(name))
        assert torch.isfinite(v).all()
        assert (v >= gamma).all()


def test_the_kkt_residual_sees_a_wrong_solution():
    g, G = gradients(0)
    K, b = (G @ G.T)[None], (G @ g)[None]
    v = dual(K, b, memory_strength=0.1, solver=exact)
    assert kkt_residual(K, b, 0.1, v) < 1e-8
    assert kkt_residual(K, b, 0.1, 1.01 * v) > 1e-4
    assert kkt_residual(K, b, 0.1, v - 0.01) > 1e-4


@given(
    seed=st.integers(0, 10_000), K=st.integers(1, 30), m=st.integers(1, 8), gamma=st.sampled_from([0, 0.5])
)
@settings(max_examples=60, deadline=None)
def test_hildreth_converges_to_the_exact_solution(seed, K, m, gamma):
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(m, K, 2 * K + 5, generator=generator, dtype=torch.float64)  # well conditioned
    b = torch.randn(m, K, generator=generator, dtype=torch.float64)
    many = dual(G @ G.mT, b, memory_strength=gamma, solver=hildreth)
    best = dual(G @ G.mT, b, memory_strength=gamma, solver=exact)
    torch.testing.assert_close(many, best, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 10_000), K=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
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


def test_one_sweep_of_hildreth_is_diagonal_when_off_diagonals_are_zero():
    g, G = gradients(4)
    K = torch.diag((G * G).sum(dim=1))[None]
    b, lower = (G @ g)[None], torch.full((1, len(G)), 0.1, dtype=torch.float64)
    torch.testing.assert_close(hildreth(K, b, lower, sweeps=1), diagonal(K, b, lower))


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


@pytest.mark.parametrize("name", ["cvxopt", "hildreth:", "hildreth:0", "hildreth:x", 3, ["exact"]])
def test_unknown_solver_is_named_with_what_is_allowed(name):
    with pytest.raises(ValueError, match=r"unknown solver .* allowed are 'exact', 'quadprog', 'diagonal'"):
        get_solver(name)


def test_quadprog_reports_what_it_cannot_solve():
    K, b = -torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="quadprog found no solution"):
        quadprog(K, b, b)
