"""All rows in the order of the table. A new row is one more entry in one of these files."""

from bench.row import Row
from bench.rows.experiments import EXPERIMENTS
from bench.rows.finer import FINER
from bench.rows.memory import MEMORY
from bench.rows.projection import PROJECTION
from bench.rows.steps import STEPS

ROWS: tuple[Row, ...] = (*EXPERIMENTS, *STEPS, *PROJECTION, *MEMORY, *FINER)
