"""All rows, in the order of the table."""

from benchmarks.row import Row
from benchmarks.rows.experiments import EXPERIMENTS
from benchmarks.rows.finer import FINER
from benchmarks.rows.memory import MEMORY
from benchmarks.rows.projection import PROJECTION
from benchmarks.rows.steps import STEPS

ROWS: tuple[Row, ...] = (*EXPERIMENTS, *STEPS, *PROJECTION, *MEMORY, *FINER)
