"""Folder or table of audio -> Corpus of Utterances; folds; subsets of labels."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pcl_jax.corpora import crema_d, demo, emodb, iemocap, ravdess, table
from pcl_jax.corpora.targets import parse_targets, with_targets
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance

__all__ = ["READERS", "Corpus", "CorpusError", "Problem", "Utterance", "parse_targets", "read"]

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
        CorpusError: The name is unknown, the root is missing, or the root does not hold that corpus.
    """
    if name not in READERS:
        raise CorpusError(f"unknown corpus {name!r}; choose from {', '.join(READERS)}")
    if root is None:
        if name != "demo":
            raise CorpusError(f"corpus {name!r} needs a root; give its folder or table with --root")
        root = demo.DEFAULT_ROOT
    corpus = READERS[name](Path(root))
    return corpus if targets is None else with_targets(corpus, targets)
