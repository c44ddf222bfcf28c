"""Patience and plateau: pure rules, one small state each. Lower is better for both.

Give `1 - uar` where higher is better. Neither has a tolerance: any smaller number is an improvement,
and NaN never is.
"""

from typing import NamedTuple


class Patience(NamedTuple):
    """The best value so far, and the epochs stalled."""

    best: float = float("inf")
    stalled: int = 0

    def update(self, value: float) -> "Patience":
        """After one more epoch; `stalled == 0` says that it was the best.

        >>> Patience().update(0.9).update(0.7).update(0.8)
        Patience(best=0.7, stalled=1)
        """
        return Patience(value, 0) if value < self.best else Patience(self.best, self.stalled + 1)


class Plateau(NamedTuple):
    """A factor on the learning rate that shrinks when a value has stopped falling.

    The cut comes on the `patience`-th epoch without improvement ("after every 5 epochs", paper,
    section 3.3) and the count starts anew; torch's ReduceLROnPlateau cuts on the one after.
    optax.contrib.reduce_on_plateau has a relative threshold with the wrong sign below zero.
    """

    best: float = float("inf")
    stalled: int = 0
    scale: float = 1.0

    def update(self, value: float, *, factor: float, patience: int) -> "Plateau":
        """After one more epoch.

        >>> plateau = Plateau().update(0.5, factor=0.9, patience=2)
        >>> [plateau := plateau.update(0.6, factor=0.9, patience=2) for _ in range(2)][-1].scale
        0.9
        """
        if value < self.best:
            return Plateau(value, 0, self.scale)
        if self.stalled + 1 < patience:
            return Plateau(self.best, self.stalled + 1, self.scale)
        return Plateau(self.best, 0, self.scale * factor)
