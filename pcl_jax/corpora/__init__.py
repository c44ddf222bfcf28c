"""Folder or table of audio -> Corpus of Utterances; folds; subsets of labels."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from pcl_jax.corpora import crema_d, demo, emodb, iemocap, leakage, ravdess, table
from pcl_jax.corpora.targets import parse_targets, with_targets
from pcl_jax.corpora.utterance import Corpus, CorpusError, LeftOut, Problem, Utterance

__all__ = [
    "READERS",
    "Corpus",
    "CorpusError",
    "LeftOut",
    "Problem",
    "Utterance",
    "leakage",
    "parse_targets",
    "read",
]

READERS: dict[str, Callable[[Path], Corpus]] = {
    "demo": demo.read,
    "iemocap": iemocap.read,
    "emodb": emodb.read,
    "ravdess": ravdess.read,
    "crema_d": crema_d.read,
    "table": table.read,
}
"""Reader of each corpus, by the corpus's name. A new corpus is one module and one line here."""


def read(
    name: str, root: Path | str | None = None, *, targets: Mapping[str, tuple[str, ...]] | None = None
) -> Corpus:
    """Read a corpus from disk; faults of single files are listed in its `problems`.

    Args:
        name: Key of `READERS`.
        root: Folder of the corpus, or file of a table. The demo's default is `demo/` in the working
            directory; the demo is synthesised there on first use.
        targets: Class -> emotions merged into it, in place of the corpus's own; see `parse_targets`.

    Raises:
        CorpusError: The name is unknown; the root is missing, does not hold that corpus, or holds no
            utterance that can be used.
    """
    if name not in READERS:
        raise CorpusError(f"unknown corpus {name!r}; choose from {', '.join(READERS)}")
    if root is None:
        if name != "demo":
            raise CorpusError(f"corpus {name!r} needs a root; give its folder or table with --root")
        root = demo.DEFAULT_ROOT
    corpus = READERS[name](Path(root))
    if not corpus.utterances:
        raise CorpusError(f"{root} has no utterance that can be used: {_summary(corpus)}")
    return corpus if targets is None else with_targets(corpus, targets)


def _summary(corpus: Corpus) -> str:
    """Return the number of problems of each kind, and the first one."""
    kinds = Counter(problem.kind for problem in corpus.problems)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{counts}; the first: {corpus.problems[0].message}" if counts else "it is empty"
