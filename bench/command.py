"""The command ``mgem`` as a process of its own, on one thread."""

import os
import sys

MGEM = (sys.executable, "-c", "from avalanche_mgem.experiment.main import main; main()")
"""What starts it, whether or not the scripts of the environment are on the path."""


def one_thread() -> dict[str, str]:
    """The environment of a process with one thread of torch and of NumPy's BLAS."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
