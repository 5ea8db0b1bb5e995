import numpy as np
import pytest
import qpsolvers
import torch
from helpers import gradients
from hypothesis import assume, given
from hypothesis import strategies as st
from torchjd.aggregation import DualProj
from torchjd.linalg import QuadprogProjector

from avalanche_mgem.functional import Blocks, NonFiniteGradientError, combine, gram, project

seeds = st.integers(0, 100_000)
SOLVERS = ["exact", "quadprog", "diagonal"]
EXACT = ["exact", "quadprog"]


def random_modules(seed: int, P: int, m: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.arange(m), torch.randint(0, m, (P - m,), generator=generator)])


def assert_no_conflict(g, z, G, modules=None):
    for j in range(1 if modules is None else int(modules.max()) + 1):
        block = slice(None) if modules is None else modules == j
        scale = G[:, block].norm(dim=1) * g[block].norm()
        assert (G[:, block] @ z[block] >= -1e-7 * scale).all()


@given(seed=seeds, K=st.integers(1, 20), m=st.integers(1, 6))
def test_every_constraint_of_every_module_holds(seed, K, m):
    g, G = gradients(seed, K, conflict=0.7)
    modules = random_modules(seed, 40, m)
    for solver in EXACT:
        z = project(g, G, modules=modules, solver=solver)
        assert_no_conflict(g, z, G, modules)
        assert z is not g


@given(seed=seeds, K=st.integers(1, 20))
def test_it_is_the_nearest_point_of_the_cone(seed, K):
    # The variational inequality <g - z, y - z> <= 0 for every y of the cone, here projections of others.
    g, G = gradients(seed, K)
    z = project(g, G)
    for other in range(5):
        y = project(gradients(seed + other + 1)[0], G)
        assert (g - z) @ (y - z) <= 1e-6 * g.norm() * (y - z).norm()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("m", [1, 3])
def test_without_conflict_it_is_g_bit_for_bit(solver, m):
    g, G = gradients(0, conflict=-5.0)
    assert (G @ g > 0).all()
    modules = torch.arange(40) * m // 40
    assert project(g, G, memory_strength=0.5, modules=modules, solver=solver) is g


def test_a_module_without_conflict_keeps_g_bit_for_bit():
    g, G = gradients(1, K=1)
    modules = (g * G[0] < 0).long()  # module 0 agrees everywhere, module 1 nowhere
    z = project(g, G, memory_strength=0.5, modules=modules)
    assert torch.equal(z[modules == 0], g[modules == 0])
    assert not torch.equal(z[modules == 1], g[modules == 1])


@given(seed=seeds, exponent=st.integers(-9, 9))
def test_scaling_all_gradients_scales_the_update(seed, exponent):
    c = 10.0**exponent
    g, G = gradients(seed)
    z = project(g, G, memory_strength=0.3)
    torch.testing.assert_close(project(c * g, c * G, memory_strength=0.3), c * z, rtol=1e-8, atol=1e-8 * c)


@given(seed=seeds)
def test_order_of_constraints_and_of_coordinates_does_not_matter(seed):
    g, G = gradients(seed)
    modules = random_modules(seed, 40, 3)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(6, generator=generator), torch.randperm(40, generator=generator)
    for solver in [*EXACT, "diagonal"]:
        z = project(g, G, memory_strength=0.3, modules=modules, solver=solver)
        torch.testing.assert_close(
            project(g, G[rows], memory_strength=0.3, modules=modules, solver=solver), z
        )
        shuffled = project(
            g[columns], G[:, columns], memory_strength=0.3, modules=modules[columns], solver=solver
        )
        torch.testing.assert_close(shuffled, z[columns])


@given(seed=seeds, m=st.integers(1, 6))
def test_modules_are_independent_projections(seed, m):
    g, G = gradients(seed)
    modules = random_modules(seed, 40, m)
    z = project(g, G, memory_strength=0.2, modules=modules)
    for j in range(m):
        block = modules == j
        torch.testing.assert_close(z[block], project(g[block], G[:, block], memory_strength=0.2))


@given(seed=seeds, m=st.integers(1, 6))
def test_the_modules_gram_matrices_sum_to_the_whole_one(seed, m):
    g, G = gradients(seed)
    K, b = gram(g, G, Blocks.from_modules(random_modules(seed, 40, m), 40))
    torch.testing.assert_close(K.sum(dim=0), G @ G.T)
    torch.testing.assert_close(b.sum(dim=0), G @ g)


@given(seed=seeds, gamma=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_it_equals_torchjd_dualproj(seed, gamma):
    g, G = gradients(seed)
    z = project(g, G, memory_strength=gamma)
    assume((G @ g < 0).any() and z @ g >= 0)  # DualProj also constrains z against g
    preference = torch.tensor([1.0] + [gamma] * len(G), dtype=torch.float64)
    oracle = DualProj(preference, projector=QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12))
    torch.testing.assert_close(oracle(torch.vstack([g, G])), z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_absolute_ridge_is_the_formula_of_gem(gamma):
    g, G = gradients(5)
    P = G.numpy() @ G.numpy().T + 1e-3 * np.eye(6)
    v = qpsolvers.solve_qp(P, G.numpy() @ g.numpy(), -np.eye(6), np.full(6, -gamma), solver="quadprog")
    z = project(g, G, memory_strength=gamma, solver="quadprog", ridge="absolute")
    torch.testing.assert_close(z, g + torch.from_numpy(v) @ G)


def worst_cosine(scale, **kwargs):
    """Of the update with the references, where all gradients have the norm ``scale``."""
    g, G = gradients(6)
    g, G = scale * g / g.norm(), scale * G / G.norm(dim=1, keepdim=True)
    z = project(g, G, **kwargs)
    return (G @ z / (G.norm(dim=1) * z.norm())).min()


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.03, 0.01, 1e-12, 1e15])
def test_the_relative_ridge_holds_at_every_scale(scale):
    assert worst_cosine(scale) >= -1e-8


@pytest.mark.parametrize("scale", [0.03, 0.01, 1e-12])
def test_the_absolute_ridge_outweighs_small_gradients(scale):
    assert worst_cosine(scale, ridge="absolute") < -0.05


@given(seed=seeds, d=st.integers(1, 4))
def test_finer_groups_shrink_the_feasible_set(seed, d):
    # GEM's row is the mean of the d groups' rows: what satisfies the groups satisfies GEM.
    g, G = gradients(seed, K=3 * d)
    z = project(g, G)
    assert_no_conflict(g, z, G.reshape(3, d, -1).mean(dim=1))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_lower_precision_follows_float64(dtype, tolerance, solver):
    g, G = (x.to(dtype) for x in gradients(7))
    z = project(g, G, memory_strength=0.2, solver=solver)
    assert z.dtype == dtype
    expected = project(g.double(), G.double(), memory_strength=0.2, solver=solver)
    torch.testing.assert_close(z.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max())


@pytest.mark.parametrize(
    ("scale_g", "scale_G"),
    [(1, 1e25), (1, 1e-25), (1e-25, 1e-25), (1e-12, 1e30), (1e22, 1e-18), (1e-30, 1), (1e-36, 1e-6)],
)
def test_float32_holds_where_its_squares_overflow_or_underflow(scale_g, scale_G):
    g, G = gradients(8)
    z = project((scale_g * g).float(), (scale_G * G).float())
    torch.testing.assert_close(z.double() / scale_g, project(g, G), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [0, 1])
def test_float32_holds_where_one_module_of_g_underflows(module):
    g, G = gradients(8)
    modules = torch.arange(40) // 20
    g, G = torch.where(modules == module, 1e-36 * g, g), 1e-6 * G
    z = project(g.float(), G.float(), modules=modules)
    scale = torch.where(modules == module, 1e36, 1.0)
    expected = project(g, G, modules=modules)
    torch.testing.assert_close(z.double() * scale, expected * scale, rtol=1e-4, atol=1e-5)


def test_an_update_may_be_finite_though_its_sum_is_not():
    g, G = torch.full((40,), 3e4, dtype=torch.float16), torch.zeros(1, 40, dtype=torch.float16)
    G[0, 0] = -1
    z = project(g, G)
    assert z.sum().isinf()
    torch.testing.assert_close(z, torch.where(torch.arange(40) > 0, g, 0), rtol=0, atol=0.1)


def test_a_gradient_may_be_too_long_for_its_precision_where_no_row_reads_it():
    g, G = torch.full((40,), 1e30), torch.zeros(2, 40)
    assert project(g, G) is g
    G[0, 0] = -1e-3
    torch.testing.assert_close(project(g, G) / 1e30, (torch.arange(40) > 0).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_update_that_is_too_large_is_no_update(dtype):
    most = torch.finfo(dtype).max
    g, G = torch.tensor([-1.0, -0.9 * most], dtype=dtype), torch.tensor([[1.0, 0.5 * most]], dtype=dtype)
    with pytest.raises(NonFiniteGradientError, match="update z"):
        project(g, G, memory_strength=4.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_orthogonal_is_no_conflict(solver):
    g, G = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert project(g, G, memory_strength=0.5, solver=solver) is g


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("K", [20, 50, 100, 200])
def test_nearly_parallel_rows_in_float32(solver, K):
    # The rounding of a float32 Gram matrix makes these indefinite.
    torch.manual_seed(K)
    G = torch.randn(K, 1) @ torch.randn(1, 2000) + 2e-4 * torch.randn(K, 2000)
    g = torch.randn(2000) - 0.05 * G.mean(dim=0) - 0.05 * G[0]
    z = project(g, G, solver=solver)
    cosines = G.double() @ z.double() / (G.double().norm(dim=1) * g.double().norm())
    assert (G @ g < 0).any()
    assert cosines.min() > -3e-6 * K


def test_an_update_that_overflows_its_precision_is_an_error():
    G = 1e4 * torch.randn(4, 50)
    with pytest.raises(NonFiniteGradientError, match=r"update z in torch\.float16 is not finite"):
        project(-G.sum(dim=0).half(), G.half(), memory_strength=3.0)


def test_autocast_does_not_lower_the_precision():
    g, G = (x.float() for x in gradients(14))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = project(g, G, memory_strength=0.2)
    assert torch.equal(z, project(g, G, memory_strength=0.2))


def test_the_finer_precision_of_the_two_counts():
    g, G = gradients(15)
    z = project(g, G.float())
    assert_no_conflict(g, z, G.float().double())


@pytest.mark.parametrize("solver", SOLVERS)
def test_inputs_that_require_a_gradient(solver):
    g, G = (x.requires_grad_() for x in gradients(16))
    assert not project(g, G, solver=solver).requires_grad


def test_more_constraints_than_parameters():
    g, G = gradients(9, K=50, P=3)
    assert_no_conflict(g, project(g, G), G)


def test_no_reference_changes_nothing():
    g = torch.randn(5)
    assert project(g, torch.empty(0, 5), memory_strength=0.5) is g


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_not_finite_is_named(bad, solver):
    g, G = gradients(10)
    G[4, 7] = bad
    with pytest.raises(NonFiniteGradientError, match="row 4 of G is not finite") as error:
        project(g, G, solver=solver)
    assert error.value.row == 4
    g, G = gradients(10)
    g[3] = bad
    with pytest.raises(NonFiniteGradientError, match="current gradient g is not finite") as error:
        project(g, G, solver=solver)
    assert error.value.row is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"g": torch.zeros(3)}, r"g of shape \[P\] and G of shape \[K, P\]; got \[3\] and \[6, 40\]"),
        ({"modules": torch.zeros(3, dtype=torch.long)}, r"LongTensor of shape \[40\]"),
        ({"modules": torch.zeros(40)}, "LongTensor"),
        ({"modules": torch.full((40,), -1)}, "module ids start at 0"),
        ({"memory_strength": -0.1}, "memory_strength must be finite and at least 0"),
        ({"memory_strength": float("nan")}, "memory_strength must be finite and at least 0"),
        ({"memory_strength": float("inf")}, "memory_strength must be finite and at least 0; got inf"),
        ({"memory_strength": True}, "memory_strength must be finite and at least 0; got True"),
        ({"memory_strength": "0.5"}, "memory_strength must be finite and at least 0; got '0.5'"),
        ({"ridge": "none"}, r"ridge must be one of \('relative', 'absolute'\); got 'none'"),
        ({"solver": "magic"}, "unknown solver 'magic'"),
        ({"modules": [0] * 40}, "modules must be a LongTensor, Blocks or None; got a list"),
        ({"modules": Blocks((3, 4))}, "the modules have 7 coordinates, but g has 40"),
        ({"g": torch.zeros(40, dtype=torch.long)}, "must be of floating point"),
    ],
)
@pytest.mark.parametrize("conflict", [0.5, -5.0])
def test_errors_say_what_is_allowed_whether_or_not_there_is_a_conflict(arguments, message, conflict):
    g, G = gradients(11, conflict=conflict)
    with pytest.raises(ValueError, match=message):
        project(**{"g": g, "G": G, **arguments})


def test_combine_leaves_untouched_modules_and_restores_the_order():
    g, G = gradients(12)
    modules = random_modules(12, 40, 3)
    v = torch.zeros(3, 6, dtype=torch.float64)
    v[1] = 2.0
    z = combine(g, G, v, Blocks.from_modules(modules, 40))
    torch.testing.assert_close(z, torch.where(modules == 1, g + 2 * G.sum(dim=0), g))


def test_diagonal_gram_has_only_the_norms():
    g, G = gradients(13)
    K, b = gram(g, G, Blocks.from_modules(None, 40), diagonal=True)
    torch.testing.assert_close(K[0], torch.diag((G * G).sum(dim=1)))
    torch.testing.assert_close(b[0], G @ g)


@pytest.mark.parametrize("K", [1, 5, 16, 19, 32, 40, 76])
@pytest.mark.parametrize("P", [1, 5000, 2**16, 2**17 + 4097])
def test_the_products_of_wide_and_narrow_rows(K, P):
    g, G = gradients(0, K, P)
    found, b = gram(g, G, Blocks((P,)))
    torch.testing.assert_close(found[0], G @ G.T)
    torch.testing.assert_close(b[0], G @ g)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_update_goes_where_it_is_told(m, dtype):
    g, G = gradients(0, 4, 30)
    modules, out = random_modules(0, 30, m), torch.full((30,), float("nan"), dtype=dtype)
    g, G = g.to(dtype), G.to(dtype)
    z = project(g, G, modules=modules, memory_strength=0.5, out=out)
    assert z is out
    assert torch.equal(z, project(g, G, modules=modules, memory_strength=0.5))
    unharmed = torch.full((30,), 7.0, dtype=dtype)
    assert project(g, G[:0], out=unharmed) is g
    assert (unharmed == 7.0).all()
    replaced = project(g, G, modules=modules, memory_strength=0.5, out=g.detach())
    assert torch.equal(replaced, z)
    assert replaced.data_ptr() == g.data_ptr()


@pytest.mark.parametrize("wrong", ["shape", "dtype", "g", "a part of it"])
def test_where_the_update_cannot_go(wrong):
    memory, G = gradients(0, 4, 30)
    memory = torch.cat([memory, memory])
    g = memory[:30]
    out = {
        "shape": torch.empty(29, dtype=g.dtype),
        "dtype": torch.empty(30, dtype=torch.half),
        "g": g,
        "a part of it": memory[10:40],
    }[wrong]
    with pytest.raises(ValueError, match=r"^out must "):
        project(g, G, out=out)
