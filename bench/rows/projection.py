"""The row for the way from gradients to the update, at the size of a ResNet-18."""

from collections.abc import Callable

import torch
from avalanche.training.plugins import GEMPlugin

from avalanche_mgem.functional import project
from bench.midstream import GAMMA, relative_difference
from bench.row import Measured, Options, Row
from bench.stock import blas_threads
from bench.timing import in_turns

_ROWS, _PARAMETERS = 19, 11_181_642  # torchvision's ResNet-18 with ten classes


def _g_to_z(options: Options) -> Measured:
    options.report.phase("gradients")
    size = options.size(_PARAMETERS, 10_000)
    generator = torch.Generator().manual_seed(options.seed)
    stock = GEMPlugin(patterns_per_experience=1, memory_strength=GAMMA)
    stock.G = torch.randn(_ROWS, size, generator=generator).to(options.device)
    g = torch.randn(size, generator=generator).to(options.device) - 0.1 * stock.G.sum(dim=0)

    def reference() -> torch.Tensor:
        z: torch.Tensor = stock.solve_quadprog(g)
        return z

    out = torch.empty_like(g)  # the plugin also passes memory for z
    # Without torch beside it NumPy may gain from several threads, so we compare with its better setting.
    # Ours follows stock with one thread: a pool of threads keeps a core busy for a while after its call.
    threads = sorted({1, torch.get_num_threads()}, reverse=True)
    sides: dict[str, Callable[[], object]] = {f"stock, {n} BLAS": blas_threads(n, reference) for n in threads}
    sides["ours"] = lambda: project(g, stock.G, memory_strength=GAMMA, out=out)
    seconds = in_turns(sides, repetitions=options.size(15, 3), report=options.report, clock=options.clock)
    mine = seconds.pop("ours")
    best = min(seconds, key=lambda name: sorted(seconds[name])[len(mine) // 2])
    z = project(g, stock.G, memory_strength=GAMMA, ridge="absolute")
    settings = {"G": [_ROWS, size], "memory_strength": GAMMA, "blas_threads_of_stock": int(best.split()[1])}
    return Measured(mine, seconds[best], relative_difference(z, reference()), settings)


PROJECTION = (
    Row(
        "g_to_z",
        "from g and G [19, 11 million] to the update: functional.project",
        "stock GEM's solve_quadprog on the same",
        at_least=True,
        floor=6.0,  # 8.64 on one processor and 6.8 on another: both sides wait for the same memory
        goal=20.0,
        measure=_g_to_z,
    ),
)
