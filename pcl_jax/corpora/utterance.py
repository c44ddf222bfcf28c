"""Records of a corpus: Utterance, Problem and Corpus."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pcl_jax.audio import one_line
from pcl_jax.config import SubsetName


class CorpusError(ValueError):
    """Corpus that cannot be read or used as requested. One line: what, which value, what to do."""

    def __str__(self) -> str:
        """Return the message in one printable line."""
        return one_line(super().__str__())


class NotPossible(CorpusError):
    """A run that this corpus is too small for, or has no classes for; other runs may be possible."""


@dataclass(frozen=True)
class Utterance:
    """Segmented turn with at most one label."""

    id: str
    """Name, unique in its corpus."""
    path: Path
    session: int
    """Recording session 1..5, or group of speakers where the corpus has no sessions."""
    speaker: str
    emotion: str | None
    """Label in full, as the corpus names it ("angry"); None for unlabelled speech."""
    duration_s: float
    start_s: float = 0.0
    """Start in its file."""
    end_s: float | None = None
    """End in its file; None for the end of the file."""


@dataclass(frozen=True)
class Problem:
    """Fault of a corpus on disk, or a remark about it."""

    kind: str
    """Kind of the fault: "missing", "unreadable", "empty", "duplicate", "unknown_label", "total", ..."""
    item: str
    """File, id or count that is affected."""
    message: str
    """Message in one line: what is wrong, which value, what to do."""
    fatal: bool = False
    """Whether the corpus cannot be used until this is mended."""
    lost: int = 0
    """Number of utterances that the data claim and the corpus lacks because of this; 0 for a remark."""

    def __post_init__(self) -> None:
        """Make the texts printable: a file name may hold any bytes."""
        object.__setattr__(self, "item", one_line(self.item))
        object.__setattr__(self, "message", one_line(self.message))


@dataclass(frozen=True)
class LeftOut:
    """Utterances that the data claim and the corpus lacks."""

    count: int
    """Number of utterances."""
    lines: tuple[str, ...]
    """Reasons, one line each; a line may stand for several utterances of one file."""


@dataclass(frozen=True)
class Corpus:
    """Utterances of a corpus in a fixed order (sorted by id), and its target classes.

    `targets` maps each class, in class order, to the emotions merged into it, as in
    `{"happy": ("happy", "excited")}`. Utterances of other emotions, or none, serve pre-training only.
    """

    name: str
    utterances: tuple[Utterance, ...]
    targets: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...] = ()
    synthetic: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the target classes, in order."""
        return tuple(self.targets)

    @property
    def left_out(self) -> LeftOut:
        """Utterances that the data claim and the corpus lacks: their number, and the reasons."""
        losses = [problem for problem in self.problems if problem.lost]
        return LeftOut(sum(loss.lost for loss in losses), tuple(loss.message for loss in losses))

    @cached_property
    def largest_session(self) -> int:
        """Number of utterances with a target class in the session that has most."""
        return max(Counter(utterance.session for utterance in self.subset("target")).values(), default=1)

    def label(self, utterance: Utterance) -> int | None:
        """Return the index of the utterance's class; None if its emotion is not a target."""
        for index, emotions in enumerate(self.targets.values()):
            if utterance.emotion in emotions:
                return index
        return None

    def subset(self, name: SubsetName) -> tuple[Utterance, ...]:
        """Select utterances by whether they have a target.

        Args:
            name: "all" (IEMOCAP-10), "target" (IEMOCAP-4) or "out_of_distribution": those without a target.
        """
        if name == "all":
            return self.utterances
        wanted = name == "target"
        return tuple(u for u in self.utterances if (self.label(u) is not None) == wanted)
