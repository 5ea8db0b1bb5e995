"""The forms of G: one matrix, and any other that can multiply."""

import pytest
import torch
from helpers import gradients
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avalanche_mgem.functional import Blocks, DenseRows, NonFiniteGradientError, combine, gram, project

SOLVERS = ["exact", "quadprog", "diagonal"]
RANK, P = 5, 40


class TwoFactors:
    """G = A B, with A [K, r] and B [r, P], which is never one matrix; it notes what it is asked for."""

    def __init__(self, A: Tensor, B: Tensor):
        self.A, self.B = A, B
        self.num_rows, self.num_columns, self.dtype = len(A), B.shape[1], A.dtype
        self.asked: list[tuple[torch.dtype, bool]] = []

    def products(self, g, blocks, dtype, *, diagonal, row_by_row):
        self.asked.append((dtype, row_by_row))
        A = self.A.to(dtype)
        parts = list(zip(blocks.split(g.to(dtype)), blocks.split(self.B.to(dtype)), strict=True))
        K = torch.stack([A @ (B @ B.T) @ A.T for _, B in parts])
        b = torch.stack([A @ (B @ g) for g, B in parts])
        return (torch.diag_embed(K.diagonal(dim1=1, dim2=2)) if diagonal else K), b

    def dense(self):
        return self.A @ self.B

    def has_entries(self, rows, blocks):
        return any(
            bool((self.A[chosen] @ B).any()) for chosen, B in zip(rows, blocks.split(self.B), strict=True)
        )

    def combine(self, g, v, blocks, *, out=None):
        dtype = torch.promote_types(g.dtype, v.dtype)
        added = [
            (u.to(dtype) @ self.A.to(dtype)) @ B.to(dtype)
            for u, B in zip(v, blocks.split(self.B), strict=True)
        ]
        z = (g.to(dtype) + blocks.join(added)).to(g.dtype)
        return z if out is None else out.copy_(z)


def problem(seed: int, K: int = 6, m: int = 1) -> tuple[Tensor, TwoFactors, Tensor]:
    """A gradient, rows of two factors that are against it, and module ids."""
    generator = torch.Generator().manual_seed(seed)
    A, B = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((K, RANK), (RANK, P)))
    g = torch.randn(P, generator=generator, dtype=torch.float64) - 0.5 * (A @ B).mean(dim=0)
    modules = torch.cat([torch.arange(m), torch.randint(0, m, (P - m,), generator=generator)])
    return g, TwoFactors(A, B), modules


@given(
    seed=st.integers(0, 100_000),
    K=st.integers(1, 5),
    m=st.integers(1, 5),
    gamma=st.sampled_from([0.0, 0.5]),
    solver=st.sampled_from(SOLVERS),
)
def test_every_form_of_the_same_rows_gives_the_same_update(seed, K, m, gamma, solver):
    g, rows, modules = problem(seed, K, m)
    G = rows.dense()
    options = {"memory_strength": gamma, "modules": modules, "solver": solver}
    z = project(g, G, **options)
    assert torch.equal(project(g, DenseRows(G), **options), z)
    torch.testing.assert_close(project(g, rows, **options), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["dense", "two factors"])
@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_one_retry_in_float64_serves_every_form(form, scale):
    g, rows, modules = problem(0, m=3)
    expected = project(g, rows.dense(), modules=modules)
    rows = TwoFactors((scale * rows.A).float(), rows.B.float())
    z = project(g.float(), rows if form == "two factors" else rows.dense(), modules=modules)
    torch.testing.assert_close(z.double(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(z, g.float())


@pytest.mark.parametrize(
    ("scale", "asked"),
    [
        (1.0, [(torch.float32, False)]),
        (1e25, [(torch.float32, False), (torch.float64, True)]),
        (1e-25, [(torch.float32, False), (torch.float64, True)]),
    ],
)
def test_only_what_leaves_float32_is_computed_again(scale, asked):
    g, rows, _ = problem(0)
    rows = TwoFactors((scale * rows.A).float(), rows.B.float())
    gram(g.float(), rows, Blocks((P,)))
    assert rows.asked == asked


@pytest.mark.parametrize("form", [lambda G: G, lambda G: TwoFactors(torch.eye(len(G)), G)])
def test_a_row_of_zeros_is_no_reason_to_compute_again(form):
    g, G = (x.float() for x in gradients(0))
    G[2, :20] = 0  # as the head of another task
    G[4] = 0
    K, b = gram(g, form(G), Blocks((20, 20)))
    assert K.dtype == b.dtype == torch.float32
    assert (K[0, 2] == 0).all()


@pytest.mark.parametrize("module", [0, 1, 2])
def test_a_row_that_is_not_finite_in_one_module_is_named(module):
    g, G = gradients(0)
    modules = torch.arange(P) % 3
    G[3, modules == module] = torch.inf
    with pytest.raises(NonFiniteGradientError, match="row 3 of G is not finite") as error:
        project(g, G, modules=modules)
    assert error.value.row == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_though_no_row_reads_it(bad):
    class WithoutHead(TwoFactors):
        """Whose last coordinate, as the head of a new task, is zero in every row and not multiplied."""

        def products(self, g, *args, **kwargs):
            return super().products(torch.where(torch.arange(P) < P - 1, g, 0), *args, **kwargs)

    g, rows, _ = problem(0)
    rows.B[:, -1] = 0
    g[-1] = bad
    with pytest.raises(NonFiniteGradientError, match="current gradient g is not finite"):
        project(g, WithoutHead(rows.A, rows.B))


def test_a_row_that_is_not_finite_is_named_in_every_form():
    g, rows, modules = problem(0, m=3)
    rows.A[3, 0] = torch.nan
    with pytest.raises(NonFiniteGradientError, match="row 3 of G is not finite"):
        project(g, rows, modules=modules)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("diagonal", [False, True])
def test_products_of_half_precision_are_accumulated_in_float32(dtype, diagonal):
    g, G = (x.to(dtype) for x in gradients(0, K=3, P=5000))
    K, b = gram(g, G, Blocks((5000,)), diagonal=diagonal)
    assert K.dtype == b.dtype == torch.float32
    exact = G.double() @ G.double().T
    expected = torch.diag(exact.diagonal()) if diagonal else exact
    torch.testing.assert_close(K[0].double(), expected, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(b[0].double(), G.double() @ g.double(), rtol=1e-5, atol=1e-2)


@given(seed=st.integers(0, 100_000), m=st.integers(1, 5))
def test_products_and_combinations_of_dense_rows(seed, m):
    g, rows, modules = problem(seed, m=m)
    G, blocks = rows.dense(), Blocks.from_modules(modules, P)
    v = torch.rand(m, len(G), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for j, (K, b) in enumerate(zip(*gram(g, DenseRows(G), blocks), strict=True)):
        torch.testing.assert_close(K, G[:, modules == j] @ G[:, modules == j].T)
        torch.testing.assert_close(b, G[:, modules == j] @ g[modules == j])
    torch.testing.assert_close(combine(g, DenseRows(G), v, blocks), g + (v[modules].T * G).sum(dim=0))


def test_autocast_does_not_lower_the_precision_of_any_form():
    g, rows, _ = problem(2)
    g, rows = g.float(), TwoFactors(rows.A.float(), rows.B.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = project(g, rows, memory_strength=0.2)
    assert torch.equal(z, project(g, rows, memory_strength=0.2))


def test_a_module_without_multipliers_keeps_g_whatever_its_rows_are():
    g, G = gradients(0)
    G[1, 10] = torch.nan
    v = torch.zeros(2, 6, dtype=torch.float64)
    v[1, 0] = 1.0
    z = combine(g, G, v, Blocks((20, 20)))
    assert torch.equal(z[:20], g[:20])
    torch.testing.assert_close(z[20:], g[20:] + G[0, 20:])


@pytest.mark.parametrize(
    "G", [torch.ones(3), torch.ones(2, 3, 1), torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3).bool()]
)
def test_what_is_no_matrix_of_rows_is_refused(G):
    with pytest.raises(ValueError, match=r"G must be a floating-point matrix of shape \[K, P\]"):
        project(torch.ones(3), G)


def test_a_report_of_rows_in_another_form():
    g, rows, modules = problem(1, m=2)
    seen = []
    for G in (rows, rows.dense()):
        project(g, G, modules=modules, solver="diagonal", report=seen.append)
    torch.testing.assert_close(seen[0].K, seen[1].K)
    torch.testing.assert_close(seen[0].norm_z, seen[1].norm_z)
