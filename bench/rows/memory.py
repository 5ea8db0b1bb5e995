"""The row for the peak memory of one step."""

import torch

from bench.peak import peak_of
from bench.row import Measured, Options, Row


def _peak_memory(options: Options) -> Measured:
    past, samples = options.size(50, 3), 8
    above: dict[str, list[float]] = {"ours": [], "stock": []}
    size = 0
    options.report.phase("ours / stock, each in a process of its own", 2 * options.size(2, 1))
    for _ in range(options.size(2, 1)):
        for side, values in above.items():
            peaks = peak_of(side, past, samples, options.seed, torch.get_num_threads())
            values.append(peaks["step"] - peaks["ordinary"])
            size = peaks["G"]
            options.report.advance()
    stock = sorted(above["stock"])[len(above["stock"]) // 2] / size
    return Measured(
        above["ours"],
        [float(size)] * len(above["ours"]),
        None,
        {
            "past_experiences": past,
            "patterns_per_exp": samples,
            "model": "torchvision resnet18",
            "minibatch": 8,
        },
        record={"stock GEM's peak above an ordinary step's / G": stock},
        unit="bytes",
    )


MEMORY = (
    Row(
        "peak_memory",
        "peak memory of one GEM step above that of an ordinary step, ResNet-18 (11 million), 50 past "
        "experiences x 8 memories",
        "the size of the reference gradients G in float32",
        at_least=False,
        floor=0.4,
        goal=0.1,
        measure=_peak_memory,
    ),
)
