"""The dual of a projection, whatever the solver."""

import numpy as np
import pytest
import torch
from helpers import gradients
from hypothesis import given
from hypothesis import strategies as st

from avalanche_mgem.functional import dual
from avalanche_mgem.solvers import SOLVERS, exact


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("scale_g", [1e-12, 1e-6, 1e15])
@pytest.mark.parametrize("scale_G", [1e-12, 1.0, 1e15])
def test_tolerances_mean_the_same_at_every_scale(name, scale_g, scale_G):
    g, G = gradients(0, conflict=0.0)
    K, b = (G @ G.T)[None], (G @ g)[None]
    v = dual(K, b, memory_strength=0.0, solver=SOLVERS[name])
    scaled = dual(scale_G**2 * K, scale_g * scale_G * b, memory_strength=0.0, solver=SOLVERS[name])
    torch.testing.assert_close(scaled * scale_G / scale_g, v, rtol=1e-8, atol=1e-10)
    assert 0 < (v > 0).sum() < 6  # some are at their bound


@given(
    seed=st.integers(0, 100_000),
    gamma=st.sampled_from([0.0, 0.3]),
    ridge=st.sampled_from(["relative", "absolute"]),
)
def test_it_minimises_the_objective_with_its_ridge(seed, gamma, ridge):
    g, G = gradients(seed)
    K, b = G @ G.T, G @ g
    v = dual(K[None], b[None], memory_strength=gamma, solver=exact, ridge=ridge)[0]
    D = 1e-3 * torch.eye(6, dtype=K.dtype) if ridge == "absolute" else 1e-9 * K.diagonal().diag()

    def objective(v):
        return 0.5 * v @ (K + D) @ v + b @ v

    generator = torch.Generator().manual_seed(seed)
    for _ in range(10):
        step = 1e-2 * torch.randn(6, generator=generator, dtype=K.dtype)
        assert objective(v) <= objective((v + step).clamp(min=gamma)) + 1e-9


def test_the_solver_sees_a_definite_matrix_of_unit_diagonal_though_float32_has_rounded_it():
    seen = []
    torch.manual_seed(0)
    G = torch.randn(200, 1) @ torch.randn(1, 2000) + 1e-5 * torch.randn(200, 2000)
    K = (G @ G.T)[None]
    dual(K, -torch.ones(1, 200), memory_strength=0.0, solver=lambda K, b, lower: (seen.append(K), lower)[1])
    np.testing.assert_allclose(seen[0].diagonal(), 1.0, rtol=0, atol=1e-4)
    assert np.linalg.eigvalsh(seen[0]).min() > 0
    lengths = K.diagonal(dim1=1, dim2=2).sqrt()
    rounded = K / lengths[:, None] / lengths[..., None]
    assert torch.linalg.eigvalsh(rounded.double()).min() < -1e-6  # without the ridge


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_float32(dtype):
    g, G = gradients(1)
    K, b = (G @ G.T)[None].to(dtype), (G @ g)[None].to(dtype)
    v = dual(K, b, memory_strength=0.1, solver=exact)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v, dual(K.float(), b.float(), memory_strength=0.1, solver=exact))


@pytest.mark.parametrize("wrong", [0.5, [0.1] * 5, [[0.1] * 6]], ids=["a number", "too few", "a batch"])
def test_a_solver_of_ones_own_must_return_a_multiplier_for_each_row(wrong):
    g, G = gradients(0)
    with pytest.raises(ValueError, match=r"^the solver must return v of shape \[6\]; got \["):
        dual((G @ G.T)[None], (G @ g)[None], memory_strength=0.1, solver=lambda K, b, lower: wrong)
