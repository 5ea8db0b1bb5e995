"""All rows in the order of the table. A new row is one more entry in one of these files."""

from bench.row import Row
from bench.rows.experiments import EXPERIMENTS
from bench.rows.finer import FINER
from bench.rows.floor import FLOOR
from bench.rows.gpu import GPU
from bench.rows.memory import MEMORY
from bench.rows.projection import PROJECTION
from bench.rows.scripts import SCRIPTS
from bench.rows.steps import STEPS

ROWS: tuple[Row, ...] = (*EXPERIMENTS, *SCRIPTS, *FLOOR, *STEPS, *PROJECTION, *MEMORY, *FINER, *GPU)
