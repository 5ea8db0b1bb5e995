"""What a solver takes and returns."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Solver = Callable[[Array, Array, Array], Array]
