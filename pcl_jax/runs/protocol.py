"""Protocol: what all runs of a command share. With it a spec has an identity, by content and never by name.

docs/architecture.md has the table of what is in each identity, and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pcl_jax.config import FEW_LABELS_VERSION, TRAINING_VERSION, Settings, changed, digest
from pcl_jax.corpora.utterance import Corpus
from pcl_jax.features.store import Store
from pcl_jax.runs.spec import FewLabels, Finetune, Measure, Pretrain, Probe, Spec, views_of
from pcl_jax.views.view import View


@dataclass(frozen=True)
class Protocol:
    """Fingerprints of the data, and the seed."""

    corpus: str
    """Name of the corpus: for people, in no identity."""
    recordings: str
    """Digest of ids, audio, sessions and speakers."""
    labels: str
    """Digest of the class of each utterance and of the names of the classes."""
    features: Mapping[str, str]
    """View -> digest of everything that changes a value of its features."""
    seed: int = 0
    extra_corpora: Mapping[str, str] = field(default_factory=dict)
    """Name of an additional corpus -> digest of its ids and audio."""

    def fingerprint(self, spec: Spec) -> dict[str, Any]:
        """Return everything that decides the outcome of a run, as JSON types.

        Settings are those that a run of this kind uses, and of these only the ones that differ from the
        defaults: a new setting leaves the identity of older runs as it is. `TRAINING_VERSION` is raised
        when a default or the algorithm changes.
        """
        content: dict[str, Any] = {
            "run": type(spec).__name__.lower(),
            "version": TRAINING_VERSION,
            "recordings": self.recordings,
            "fold": spec.fold,
            "features": [[view, self.features[view]] for view in views_of(spec)],
            "settings": changed(spec.settings),
            "seed": self.seed,
        }
        match spec:
            case Pretrain():
                if spec.settings.pretraining.subset != "all":  # labels choose the utterances
                    content["labels"] = self.labels
                if spec.extra_corpora:
                    content["extra corpora"] = [self.extra_corpora[name] for name in spec.extra_corpora]
                return content
            case Finetune():
                content["frozen"] = spec.frozen
                content["labelled"] = changed(spec.labels)
            case Probe():
                content["method"] = spec.method
                content["labelled"] = changed(spec.labels)
            case FewLabels():
                content["method"] = spec.method
                content["methods"] = FEW_LABELS_VERSION
                content["labelled"] = changed(spec.labels)
            case Measure():
                content["kind"] = spec.kind
        content["labels"] = self.labels
        if isinstance(spec.start, Pretrain):
            content["start"] = self.identity(spec.start)
        elif spec.start is not None:
            content["start"] = spec.start.identity
        return content

    def identity(self, spec: Spec) -> str:
        """Return the twelve hex digits that name a run."""
        return digest(self.fingerprint(spec))

    @property
    def data(self) -> str:
        """Digest of the data and of the version: runs that differ in it never share a table.

        Settings are not in it, a record has those in full: `experiments.sections` compares them.
        """
        return digest(TRAINING_VERSION, self.recordings, self.labels)

    def encoder_fingerprint(self, fold: int, views: tuple[str, ...], settings: Settings) -> dict[str, Any]:
        """Return what a saved encoder must say of itself to be used on a fold.

        Labels are not in it: an encoder has seen none.
        """
        return {
            "recordings": self.recordings,
            "fold": fold,
            "normalise": settings.normalise,
            "encoders": changed(settings.encoders),
        } | {f"{view} features": self.features[view] for view in views}


def protocol_of(
    corpus: Corpus,
    views: Mapping[str, View],
    stores: Mapping[str, Store],
    *,
    seed: int,
    extra_corpora: Mapping[str, str] | None = None,
) -> Protocol:
    """Return the protocol of a corpus whose features are in these stores."""
    store = next(iter(stores.values()))
    recordings = [(u.id, store.audio_digest(u.id), u.session, u.speaker) for u in corpus.utterances]
    labels = [(u.id, corpus.label(u)) for u in corpus.utterances]
    return Protocol(
        corpus.name,
        digest(recordings),
        digest(labels, list(corpus.classes)),
        {name: digest(dict(view.describe())) for name, view in views.items()},
        seed,
        dict(extra_corpora or {}),
    )


def audio_fingerprint(corpus: Corpus, stores: Mapping[str, Store]) -> str:
    """Return the digest of the ids and the audio of an additional corpus."""
    store = next(iter(stores.values()))
    return digest([(u.id, store.audio_digest(u.id)) for u in corpus.utterances])
