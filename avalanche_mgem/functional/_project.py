"""The projection in one call."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from avalanche_mgem.functional._blocks import Blocks
from avalanche_mgem.functional._combine import combine
from avalanche_mgem.functional._dual import Ridge, check_options, dual_on_host
from avalanche_mgem.functional._gram import Numbers, all_finite, gram, measured, measured_in_full
from avalanche_mgem.functional._report import ProjectionReport
from avalanche_mgem.functional._rows import GradientRows, as_rows
from avalanche_mgem.solvers import Solver, diagonal, get_solver
from avalanche_mgem.timing import now, phase


class NonFiniteGradientError(FloatingPointError):
    """A gradient is NaN, infinite, or too large to be squared.

    Attributes:
        what: which gradient it is.
        row: index of the first such reference gradient, or None if it is the current gradient or the update.
    """

    def __init__(self, what: str, row: int | None = None):
        self.what, self.row = what, row
        super().__init__(f"the {what} is not finite (or too large for its precision)")


@torch.no_grad()
def project(
    g: Tensor,
    G: Tensor | GradientRows,
    *,
    memory_strength: float = 0.0,
    modules: Tensor | Blocks | None = None,
    solver: str | Solver = "exact",
    ridge: Ridge = "relative",
    out: Tensor | None = None,
    report: Callable[[ProjectionReport], object] | None = None,
) -> Tensor:
    r"""Projects a gradient so that it conflicts with no reference gradient, module by module.

    For every module :math:`j` with coordinates :math:`B_j` where some row of
    :math:`G_{:,B_j}\, g_{B_j}` is negative, the update is :math:`z_{B_j} = g_{B_j} + G_{:,B_j}^\top v^*_j`
    with the multipliers :math:`v^*_j` of :func:`~avalanche_mgem.functional.dual`; elsewhere it is ``g``.
    At ``memory_strength=0`` this is the point nearest to ``g`` with :math:`G_{:,B_j} z_{B_j} \ge 0` for all
    :math:`j`. One module is GEM (Lopez-Paz and Ranzato, 2017, Eq. 11); several are p-mGEM, and several
    rows for each past experience d-mGEM (Liu et al., 2024, arXiv 2410.00868). Not differentiable.

    Args:
        g: current gradient ``[P]``; float64, float32, bfloat16 or float16.
        G: reference gradients ``[K, P]``, as a tensor or as other :class:`GradientRows`.
        memory_strength: :math:`\gamma \ge 0`, the least multiplier of every row where something is violated.
        modules: module id of every coordinate, a LongTensor ``[P]``; None (default) is one module. Prepared
            :class:`Blocks` save reading the ids again in every call.
        solver: ``"exact"``, ``"quadprog"``, ``"diagonal"`` or a function; see :mod:`avalanche_mgem.solvers`.
        ridge: regularisation of the dual: ``"relative"`` (default: independent of the gradients' scale) or
            ``"absolute"`` (1e-3, as GEM).
        out: memory for z, of the shape, dtype and device of ``g``; that of ``g`` itself, as ``g.detach()``,
            has z in the place of g. None (default) takes new memory in every call, which on large models
            costs a good part of the projection's time.
        report: called with what the projection did, unless there is no constraint; None (default) costs
            nothing. The update is the same bit for bit, but g is read once more for its norm, and for
            ``"diagonal"``, which does without it, the whole Gram matrix is computed where it is needed.

    Returns:
        z ``[P]`` in the dtype and on the device of ``g``, in ``out`` if given; ``g`` itself when nothing is
        violated.

    Raises:
        ValueError: for shapes that do not fit and for values that are not allowed.
        NonFiniteGradientError: if ``g`` or ``G`` is not finite, or the update is too large for the dtype.
        ArithmeticError: if the solver finds no solution.

    Example:
        >>> g, G = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]])
        >>> project(g, G)  # orthogonal to the row of G that it was against
        tensor([ 1.2000, -0.6000])
    """
    rows = as_rows(G)
    _check_gradient(g, rows)
    blocks = _checked_blocks(g, modules)
    solve = get_solver(solver)
    check_options(memory_strength, ridge)
    _check_out(out, g)
    if rows.num_rows == 0:
        return g
    with torch.autocast(g.device.type, enabled=False):  # it would compute the products in half precision
        with phase("gram"):
            (K, b), numbers = measured(g, rows, blocks, diagonal=solve is diagonal)
        with phase("solver"):
            _check_finite(numbers)
            start = now("cpu")
            try:
                v = _multipliers(numbers, memory_strength, solve, ridge)
            except ArithmeticError:
                # Products by pairs of samples are no Gram matrix where the samples of a row cancel.
                (K, b), numbers = measured_in_full(g, rows, blocks)
                v = _multipliers(numbers, memory_strength, solve, ridge)
            seconds = now("cpu") - start
        if report is not None:
            if v is not None and solve is diagonal:
                K, b = gram(g, rows, blocks)
            report(ProjectionReport.of(g, K, b, v, memory_strength, seconds))
        if v is None:
            return g
        with phase("combine"):
            z = combine(g, rows, v, blocks, out=out)
    if not (_is_surely_finite(numbers, v, z.dtype) or all_finite(z)):
        raise NonFiniteGradientError(f"update z in {z.dtype}")
    return z


def _multipliers(numbers: Numbers, memory_strength: float, solver: Solver, ridge: Ridge) -> Tensor | None:
    """The multipliers ``[m, K]``, zero where a module has no violation; None if no module has one.

    On the CPU, whence :func:`combine` takes them: it need not wait to see which modules have some.
    """
    is_violated = (numbers.b < 0).any(axis=1)
    if not is_violated.any():
        return None
    v = np.zeros_like(numbers.b)
    v[is_violated] = dual_on_host(
        numbers.K[is_violated], numbers.b[is_violated], numbers.dtype, memory_strength, solver, ridge
    )
    return torch.from_numpy(v).to(numbers.dtype)


def _is_surely_finite(numbers: Numbers, v: Tensor, dtype: torch.dtype) -> bool:
    """Whether z is finite by the triangle inequality, so that it need not be read."""
    longest = numbers.norm + (v.double().numpy() * np.sqrt(numbers.squares.clip(min=0.0))).sum(axis=1).max()
    return bool(longest < 0.5 * torch.finfo(dtype).max)


def _check_gradient(g: Tensor, rows: GradientRows) -> None:
    if g.dim() != 1 or rows.num_columns != g.shape[0]:
        found = f"{list(g.shape)} and {[rows.num_rows, rows.num_columns]}"
        raise ValueError(f"expected g of shape [P] and G of shape [K, P]; got {found}.")
    if not g.is_floating_point():
        raise ValueError(f"g must be of floating point; got {g.dtype}.")


def _checked_blocks(g: Tensor, modules: Tensor | Blocks | None) -> Blocks:
    if not isinstance(modules, Blocks):
        modules = modules.to(g.device) if isinstance(modules, Tensor) else modules
        return Blocks.from_modules(modules, g.shape[0])
    if sum(modules.sizes) != g.shape[0]:
        raise ValueError(f"the modules have {sum(modules.sizes)} coordinates, but g has {g.shape[0]}.")
    return modules


def _check_out(out: Tensor | None, g: Tensor) -> None:
    if out is None:
        return
    if (out.shape, out.dtype, out.device) != (g.shape, g.dtype, g.device):
        raise ValueError(
            f"out must be like g, {g.dtype} of shape {list(g.shape)} on {g.device}; "
            f"got {out.dtype} of shape {list(out.shape)} on {out.device}."
        )
    is_in_place = (out.data_ptr(), out.stride()) == (g.data_ptr(), g.stride()) and out is not g
    if out.untyped_storage().data_ptr() == g.untyped_storage().data_ptr() and not is_in_place:
        raise ValueError(
            "out must not be g, which is returned where nothing is violated, nor a part of its memory; for z "
            "in the place of g give out=g.detach()."
        )


def _check_finite(numbers: Numbers) -> None:
    """Finds a gradient that is not finite: reference gradients from their products, and g by its norm.

    The products do not show all of g: where every row is zero, as in the head of a new task, nothing of it is
    in them.
    """
    is_bad_row = ~np.isfinite(numbers.squares).all(axis=0)
    if is_bad_row.any():
        row = int(is_bad_row.argmax())
        raise NonFiniteGradientError(f"reference gradient in row {row} of G", row)
    if not numbers.is_finite:
        raise NonFiniteGradientError("current gradient g")
