"""Workspace: a corpus with its views, protocol and ledger; what every run reads, and its record."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from pcl_jax.config import Settings
from pcl_jax.corpora.folds import labelled_subset
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.fold import FoldData
from pcl_jax.data.load import ExtraCorpus, FoldLoader
from pcl_jax.features.store import Store
from pcl_jax.models.encoders import ENCODERS, fixed_lengths
from pcl_jax.models.heads import Classifier, ProjectionHead
from pcl_jax.models.networks import ClassifierNetwork, PretrainingNetworks
from pcl_jax.runs import records
from pcl_jax.runs.ledger import Ledger
from pcl_jax.runs.protocol import Protocol
from pcl_jax.runs.records import Record, Row
from pcl_jax.runs.spec import Pretrain, Scored, Spec, settings_in_full, views_of
from pcl_jax.views.view import View


@dataclass(frozen=True, eq=False)
class Workspace:
    """A corpus with its views, ready to train on."""

    corpus: Corpus
    views: Mapping[str, View]
    settings: Settings
    """Settings of the command: specs that `pretraining` makes have them."""
    protocol: Protocol
    ledger: Ledger
    loader: FoldLoader
    mesh: Mesh
    experiment: str = ""
    """Name that records have of what the runs were done for."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Utterance id -> why it has no features: bad audio, left out on request."""
    extra_corpora: Mapping[str, ExtraCorpus] = field(default_factory=dict)

    @property
    def lacking(self) -> int:
        """The number of utterances that the data claim and the runs lack, those of extra corpora included."""
        corpora = [self.corpus, *(extra.corpus for extra in self.extra_corpora.values())]
        return len(self.skipped) + sum(corpus.left_out.count for corpus in corpora)

    def pretraining(self, fold: int, **changes: Any) -> Pretrain:
        """Return the spec of a fold's pre-training with all views, and some of its settings changed."""
        options = replace(self.settings.pretraining, **changes)
        return Pretrain(fold, tuple(self.views), settings=replace(self.settings, pretraining=options))

    def title(self, views: Iterable[str]) -> str:
        """Return the names of these views in tables."""
        return ", ".join(self.views[view].title for view in views)

    def data(self, spec: Spec) -> FoldData:
        """Load the features that a run reads."""
        names, settings = views_of(spec), spec.settings
        encoders = {name: self._encoder(name, settings) for name in names}
        extra = spec.extra_corpora if isinstance(spec, Pretrain) else ()
        return self.loader.load(
            spec.fold,
            names,
            normalise={name: settings.normalise for name in names if self.views[name].normalised},
            fixed_lengths=fixed_lengths(encoders),
            extra_corpora=[self.extra_corpora[name] for name in extra],
        )

    def network(self, view: str, settings: Settings) -> ClassifierNetwork:
        """Return the network that fine-tuning trains."""
        classifier = Classifier(len(self.corpus.classes), settings.encoders.init)
        return ClassifierNetwork(view, self._encoder(view, settings), classifier)

    def pretraining_networks(self, spec: Pretrain) -> PretrainingNetworks:
        """Return the networks that pre-training trains."""
        encoders = tuple((view, self._encoder(view, spec.settings)) for view in spec.views)
        return PretrainingNetworks(encoders, ProjectionHead(initial=spec.settings.encoders.init))

    def _encoder(self, view: str, settings: Settings) -> nn.Module:
        return ENCODERS[self.views[view].kind](self.views[view], settings.encoders)

    def labelled(self, spec: Scored) -> tuple[Utterance, ...]:
        """Return the labelled training utterances of a run: the same for every method and view."""
        labels = spec.labels
        return labelled_subset(
            self.loader.folds[spec.fold].train,
            self.corpus,
            fraction=None if labels.per_class else labels.fraction,
            per_class=labels.per_class,
            repeat=labels.repeat,
            seed=self.protocol.seed,
        )

    def stores_read(self, spec: Pretrain) -> list[str]:
        """Return the names of the feature stores that a run reads: those that `pcl features gc` keeps."""
        corpora = [self.loader.stores, *(self.extra_corpora[name].stores for name in spec.extra_corpora)]
        return [
            f"{store.folder.parent.name}/{store.folder.name}"
            for stores in corpora
            for store in (stores[view] for view in spec.views)
        ]

    def record(self, spec: Spec, **values: Any) -> Row:
        """Record a run whose files are written: it is finished then."""
        labels = [self.corpus.label(u) for u in self.corpus.utterances]
        names = views_of(spec)
        record = Record(
            **{
                "experiment": self.experiment,
                "corpus": self.corpus.name,
                "synthetic": self.corpus.synthetic,
                "seed": self.protocol.seed,
                "fold": spec.fold,
                "title": self.title(names),
                "features": {view: self.protocol.features[view] for view in names},
                "recordings": self.protocol.recordings,
                "label_digest": self.protocol.labels,
                "classes": self.corpus.classes,
                "counts": tuple(map(labels.count, range(len(self.corpus.classes)))),
                "utterances": len(labels),
                "skipped": self.lacking,
                "normalise": spec.settings.normalise,
                "settings": settings_in_full(spec),
                "protocol": self.protocol.data,
                "versions": records.versions(),
                "device": records.device(),
                "config_digest": self.protocol.identity(spec),
                "run": self.ledger.name(spec),
            }
            | values
        )
        return self.ledger.add(spec, record)


def require_other_recordings(
    corpus: Corpus, stores: Mapping[str, Store], extra_corpora: Mapping[str, ExtraCorpus]
) -> None:
    """Refuse an additional corpus that holds a recording of this one: its test speakers would be heard."""
    store = next(iter(stores.values()))
    known = {store.audio_digest(u.id): u.id for u in corpus.utterances}
    for name, extra in extra_corpora.items():
        extra_store = next(iter(extra.stores.values()))
        for u in extra.corpus.utterances:
            if same := known.get(extra_store.audio_digest(u.id)):
                raise ValueError(
                    f"{u.id} of {name} is the same recording as {same} of {corpus.name}: pre-training would "
                    "hear test speakers; leave it out"
                )
