"""What a projection reports of itself, against the explicit z, g and G."""

import pytest
import torch
from helpers import gradients
from hypothesis import given
from hypothesis import strategies as st

from avalanche_mgem.functional import ProjectionReport, project
from avalanche_mgem.solvers import exact

SOLVERS = ["exact", "quadprog", "diagonal"]
seeds = st.integers(0, 100_000)


def reported(g, G, **kwargs) -> tuple[torch.Tensor, ProjectionReport]:
    seen: list[ProjectionReport] = []
    z = project(g, G, report=seen.append, **kwargs)
    (found,) = seen
    return z, found


def modules(seed: int, m: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.arange(m), torch.randint(0, m, (40 - m,), generator=generator)])


@given(
    seed=seeds,
    K=st.integers(1, 12),
    m=st.integers(1, 5),
    gamma=st.sampled_from([0.0, 0.5]),
    solver=st.sampled_from(SOLVERS),
    conflict=st.sampled_from([0.5, 0.0, -5.0]),
)
def test_everything_follows_from_the_products(seed, K, m, gamma, solver, conflict):
    g, G = gradients(seed, K, conflict=conflict)
    z, found = reported(g, G, modules=modules(seed, m), memory_strength=gamma, solver=solver)
    cosines = G @ z / (G.norm(dim=1) * z.norm())
    torch.testing.assert_close(found.norm, g.norm())
    torch.testing.assert_close(found.norm_z, z.norm())
    torch.testing.assert_close(found.products_z, G @ z, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.norms_references, G.norm(dim=1))
    torch.testing.assert_close(found.relative_change, (z - g).norm() / g.norm(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.cosine_gradient, z @ g / (z.norm() * g.norm()))
    torch.testing.assert_close(found.cosine_worst, cosines.min(), rtol=1e-6, atol=1e-8)
    assert found.is_violated == (z is not g)


@given(seed=seeds, m=st.integers(1, 5), gamma=st.sampled_from([0.0, 0.5]), solver=st.sampled_from(SOLVERS))
def test_who_reports_does_not_change_the_update(seed, m, gamma, solver):
    g, G = gradients(seed)
    g, G, ids = g.float(), G.float(), modules(seed, m)
    z, _ = reported(g, G, modules=ids, memory_strength=gamma, solver=solver)
    assert torch.equal(z, project(g, G, modules=ids, memory_strength=gamma, solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("gamma", "active"), [(0.0, 3), (0.5, 2), (1.5, 1), (3.0, 0)])
def test_active_constraints_are_those_above_their_bound(solver, dtype, gamma, active):
    # Orthogonal rows of very different lengths: v_k = max(gamma, -<g, g_k> / |g_k|^2) = max(gamma, -g_k).
    lengths = torch.tensor([1e-4, 1.0, 1e4, 1.0, 1.0], dtype=dtype)
    v = torch.tensor([2.0, 1.0, 0.3, -1.0, 0.0], dtype=dtype)
    _, found = reported(-v * lengths, torch.diag(lengths), memory_strength=gamma, solver=solver)
    assert found.active_constraints == active


def test_active_constraints_are_counted_in_every_module():
    g, G = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([[1.0, 1.0, 1.0]])
    _, found = reported(g, G, modules=torch.tensor([0, 1, 2]))
    assert found.active_constraints == 2


def test_without_a_violation_nothing_has_changed():
    g, G = gradients(0, conflict=-5.0)
    z, found = reported(g, G, memory_strength=0.5)
    assert z is g
    assert not found.is_violated
    assert (found.active_constraints, found.relative_change, found.cosine_gradient) == (0, 0, 1)


def test_what_is_not_defined_is_nan():
    _, found = reported(torch.zeros(3), torch.eye(3))
    assert found.relative_change.isnan()
    assert found.cosine_gradient.isnan()
    assert found.cosine_worst.isnan()
    _, found = reported(torch.ones(3), torch.zeros(2, 3))
    assert found.cosine_worst.isnan()
    assert found.cosine_gradient == 1


def test_a_row_of_zeros_is_not_the_worst():
    _, found = reported(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert found.cosine_worst == pytest.approx(2**-0.5)


@pytest.mark.parametrize("scale", [1e-25, 1e22])
def test_norms_whose_squares_leave_float32(scale):
    g, G = gradients(8)
    _, found = reported((scale * g).float(), (G / scale).float(), memory_strength=0.5 * scale**2)
    _, expected = reported(g, G, memory_strength=0.5)
    for name in ("relative_change", "cosine_gradient", "cosine_worst"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_without_constraints_there_is_nothing_to_report():
    g = torch.ones(3)
    assert project(g, torch.empty(0, 3), report=lambda _: pytest.fail("reported")) is g


def test_it_is_small():
    g, G = gradients(0, K=4, P=10_000)
    _, found = reported(g, G)
    assert sum(value.numel() for value in vars(found).values() if isinstance(value, torch.Tensor)) < 100


def test_it_knows_how_long_the_solver_took(pass_time):
    def slow(K, b, lower):
        pass_time(5)
        return exact(K, b, lower)

    _, found = reported(*gradients(0), solver=slow)
    assert found.seconds_solver == 5
