"""Early stopping and learning-rate plateau: pure rules with a small state each. Lower values are better.

Give `1 - uar` where higher is better. NaN is never an improvement.
"""

from typing import NamedTuple


class Patience(NamedTuple):
    """The state of early stopping: the best value so far, and the epochs since."""

    best: float = float("inf")
    stalled: int = 0

    def update(self, value: float) -> "Patience":
        """Return the state after one more epoch; `stalled == 0` if it was the best.

        >>> Patience().update(0.9).update(0.7).update(0.8)
        Patience(best=0.7, stalled=1)
        """
        return Patience(value, 0) if value < self.best else Patience(self.best, self.stalled + 1)


class Plateau(NamedTuple):
    """The state of a factor on the learning rate that shrinks when a value has stopped falling.

    The factor shrinks on the `patience`-th stalled epoch ("after every 5 epochs", paper, section 3.3), and
    the count starts anew. torch's ReduceLROnPlateau does so on the one after, with a relative threshold of
    1e-4. optax.contrib.reduce_on_plateau has a relative threshold with the wrong sign below zero.
    """

    best: float = float("inf")
    stalled: int = 0
    scale: float = 1.0

    def update(self, value: float, *, factor: float, patience: int, threshold: float = 0.0) -> "Plateau":
        """Return the state after one more epoch.

        Args:
            value: The value of the epoch.
            factor: Multiplies the scale on a plateau.
            patience: The stalled epoch on which it does; torch's patience plus one.
            threshold: The share of the best value by which a positive value must fall to be an improvement.

        >>> plateau = Plateau().update(0.5, factor=0.9, patience=2)
        >>> [plateau := plateau.update(0.6, factor=0.9, patience=2) for _ in range(2)][-1].scale
        0.9
        """
        if value < self.best * (1 - threshold):
            return Plateau(value, 0, self.scale)
        if self.stalled + 1 < patience:
            return Plateau(self.best, self.stalled + 1, self.scale)
        return Plateau(self.best, 0, self.scale * factor)
