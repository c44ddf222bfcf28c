"""Utterance and Corpus: the records that everything else reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pcl_jax.config import SubsetName


class CorpusError(ValueError):
    """A corpus cannot be read or used as asked. One line: what, which value, what to do."""


class NotPossible(CorpusError):
    """A run that this corpus is too small for, or has no classes for; other runs may be possible."""


@dataclass(frozen=True)
class Utterance:
    """One segmented turn with at most one label."""

    id: str
    """Unique in its corpus."""
    path: Path
    session: int
    """Recording session 1..5, or speaker group where the corpus has none."""
    speaker: str
    emotion: str | None
    """The corpus's own label in full ("angry"), None where there is none."""
    duration_s: float
    start_s: float = 0.0
    """Where the utterance begins in its file."""
    end_s: float | None = None
    """Where it ends; None for the end of the file."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a corpus as it lies on disk."""

    kind: str
    """"missing", "unreadable", "empty", "duplicate", "no_audio", "unknown_label", "total", ..."""
    item: str
    """The file, id or count it is about."""
    message: str
    """One line: what is wrong, which value, what to do."""
    fatal: bool = False
    """The corpus cannot be used until this is mended."""


@dataclass(frozen=True)
class Corpus:
    """All utterances of a release, in a fixed order (sorted by id).

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
        return tuple(self.targets)

    def label(self, utterance: Utterance) -> int | None:
        """Index of the utterance's class, None if its emotion is no target."""
        for index, emotions in enumerate(self.targets.values()):
            if utterance.emotion in emotions:
                return index
        return None

    def subset(self, name: SubsetName) -> tuple[Utterance, ...]:
        """ "all" (IEMOCAP-10), "target" (IEMOCAP-4) or "out_of_distribution": all without target."""
        if name == "all":
            return self.utterances
        wanted = name == "target"
        return tuple(u for u in self.utterances if (self.label(u) is not None) == wanted)
