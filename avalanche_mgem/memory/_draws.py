"""Which samples of the memory a step uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """Which samples a step uses.

    Attributes:
        positions: of the samples among all N.
        sizes: number of samples of each drawn group.
        kept: the drawn groups.
    """

    positions: Index
    sizes: tuple[int, ...]
    kept: tuple[int, ...]


class Draws:
    """Draws the samples of one step after another.

    Every group's samples are walked through in random order, and shuffled again once they are used up,
    as minibatches of an epoch are.

    Args:
        sizes: number of samples of each group.
        origins: experience and group of each group.
        patterns_per_step: samples of a step, shared evenly among its groups and at least one for each;
            None takes all.
        experiences_per_step: experiences whose groups a step uses, drawn uniformly; None takes all.
        generator: of all draws.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        origins: Sequence[tuple[int, int]],
        *,
        patterns_per_step: int | None,
        experiences_per_step: int | None,
        generator: np.random.Generator,
    ):
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        # By their place, not their number: two benchmarks may use the same numbers.
        is_new = [k == 0 or origin[1] <= origins[k - 1][1] for k, origin in enumerate(origins)]
        self._owners = np.cumsum(is_new) - 1
        self._patterns_per_step = patterns_per_step
        self._experiences_per_step = experiences_per_step
        self._generator = generator
        self._order: Index | None = None
        self._cursor = 0
        self._coming: Iterator[Draw] = iter(())

    def next(self) -> Draw:
        """Draws the samples of the next step."""
        draw = next(self._coming, None)
        if draw is None:
            self._coming = iter(self._drawn())
            draw = next(self._coming)
        return draw

    def _drawn(self) -> list[Draw]:
        """The draws of the coming steps: of several at once, where they use the same groups."""
        kept = self._kept()
        sizes = self._sizes[kept]
        longest = int(sizes.max())
        share = longest if self._patterns_per_step is None else max(1, self._patterns_per_step // len(kept))
        width = min(share, longest)
        columns = np.arange(width)
        if share >= longest:
            places = np.broadcast_to(columns, (1, len(kept), width))
        else:
            number = longest // width if len(kept) == len(self._sizes) else 1
            places = self._walk(kept, sizes, width, number)
        taken = np.minimum(sizes, width)
        positions, is_taken = self._starts[kept][:, None] + places, columns < taken[:, None]
        drawn_sizes, drawn = tuple(taken.tolist()), tuple(kept.tolist())
        return [Draw(of_step[is_taken], drawn_sizes, drawn) for of_step in positions]

    def _kept(self) -> Index:
        """The groups of this step, in their order."""
        number = 1 + int(self._owners[-1])
        if self._experiences_per_step is None or self._experiences_per_step >= number:
            return np.arange(len(self._sizes))
        drawn = self._generator.choice(number, self._experiences_per_step, replace=False)
        return np.flatnonzero(np.isin(self._owners, drawn))

    def _walk(self, kept: Index, sizes: Index, width: int, number: int) -> Index:
        """The next samples of each group in its random order; a small one begins again sooner.

        Returns:
            places in the groups ``[number, len(kept), width]``, for so many steps.
        """
        longest = int(self._sizes.max())
        if self._order is None or self._cursor + number * width > longest:
            keys = self._generator.random((len(self._sizes), longest))
            keys[np.arange(longest) >= self._sizes[:, None]] = 2.0  # no sample: behind all others
            self._order, self._cursor = np.argsort(keys, axis=1), 0
        steps = self._cursor + np.arange(number * width)
        self._cursor += number * width
        places: Index = np.take_along_axis(self._order[kept], steps % sizes[:, None], axis=1)
        return places.reshape(len(kept), number, width).swapaxes(0, 1)
