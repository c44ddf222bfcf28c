"""A folder of audio on disk -> a Corpus of Utterances."""

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
"""Name of a corpus -> its reader. A new corpus is one module and one line here."""


def read(
    name: str, root: Path | str | None = None, *, targets: Mapping[str, tuple[str, ...]] | None = None
) -> Corpus:
    """The corpus as it lies on disk; what is wrong with single files stands in its `problems`.

    Args:
        name: a key of `READERS`.
        root: the corpus's folder, or the file of a table. The demo's default is `demo/` here, and it is
            synthesised there on first use.
        targets: class -> emotions merged into it, in place of the corpus's own; see `parse_targets`.

    Raises:
        CorpusError: an unknown name, no root, or a root that is not that corpus.
    """
    if name not in READERS:
        raise CorpusError(f"unknown corpus {name!r}; choose from {', '.join(READERS)}")
    if root is None:
        if name != "demo":
            raise CorpusError(f"corpus {name!r} needs a root; say where it lies with --root")
        root = demo.DEFAULT_ROOT
    corpus = READERS[name](Path(root))
    return corpus if targets is None else with_targets(corpus, targets)
