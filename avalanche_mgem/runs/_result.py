"""What one run has measured."""

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from avalanche_mgem.runs._formulas import acc, all_metrics
from avalanche_mgem.runs._names import LABELS, VALID_ACC

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Result:
    """What a run measured.

    Attributes:
        matrix: accuracies as fractions, the untrained model's first, then a row after each training.
        seconds_train: in training, loading of minibatches included.
        seconds_eval: in evaluation, likewise.
        seconds_data: in building the benchmark.
        peak_memory_mb: the largest amount of memory used, in MiB; None where it is not known. On a GPU
            torch's allocations, else those of the whole process.
        names: the chosen ``strategy`` and ``benchmark``.
        seed: of the run.
        constraints: what the constraints did in each experience that had any: its number under
            ``"experience"``, and means over its steps, see :mod:`avalanche_mgem.metrics`.
        model: the trained model, a module of torch; None where the result was read from files.
        valid_matrix: what ``matrix`` is on the validation samples; empty for a run without any.

    Example:
        >>> names = {"strategy": "gem", "benchmark": "digits"}
        >>> Result([[0.1, 0.1], [0.9, 0.2], [0.7, 0.8]], 1.0, 0.5, 0.2, None, names, seed=0)
        Result(gem on digits, seed 0: ACC 0.750 on 2 experiences)
    """

    matrix: list[list[float]]
    seconds_train: float
    seconds_eval: float
    seconds_data: float
    peak_memory_mb: float | None
    names: dict[str, str]
    seed: int
    constraints: list[dict[str, float]] = field(default_factory=list)
    model: Any = field(default=None, compare=False)
    valid_matrix: list[list[float]] = field(default_factory=list)

    def __repr__(self) -> str:
        name = f"{self.names.get('strategy')} on {self.names.get('benchmark')}, seed {self.seed}"
        return f"Result({name}: ACC {acc(self.matrix):.3f} on {len(self.matrix[0])} experiences)"

    def _repr_html_(self) -> str:
        """The metrics and the matrix, for a notebook."""
        name = f"{self.names.get('strategy')} on {self.names.get('benchmark')}, seed {self.seed}"
        metrics = {LABELS[key]: value for key, value in all_metrics(self.matrix).items()}
        cells = ("-" if value is None else f"{value:.3f}" for value in metrics.values())
        head, row = (
            "".join(f"<th>{key}</th>" for key in metrics),
            "".join(f"<td>{cell}</td>" for cell in cells),
        )
        table = f"<table><tr>{head}</tr><tr>{row}</tr></table>"
        return f"<p>{escape(name)}</p>{table}{self.accuracies.to_html(float_format='{:.3f}'.format)}"

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of ``summary.json``."""
        return {
            **all_metrics(self.matrix),
            **({VALID_ACC: acc(self.valid_matrix)} if self.valid_matrix else {}),
            "seconds_train": self.seconds_train,
            "seconds_eval": self.seconds_eval,
            "seconds_data": self.seconds_data,
            "peak_memory_mb": self.peak_memory_mb,
            **self.names,
            "seed": self.seed,
        }

    @property
    def accuracies(self) -> "pandas.DataFrame":
        """The matrix; its index ``after`` is 0 for the untrained model, i after training experience i - 1."""
        import pandas

        columns = pandas.RangeIndex(len(self.matrix[0]), name="experience")
        return pandas.DataFrame(self.matrix, columns=columns).rename_axis(index="after")
