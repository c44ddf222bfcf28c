"""Plans: the specs that an experiment asks for, in order; shared out among processes.

A plan costs nothing to make: what it holds may be finished already, by this experiment or another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pcl_jax.config import Settings
from pcl_jax.features.store import Shard
from pcl_jax.runs.spec import Finetune, Labels, Measure, Pretrain, Probe, SavedEncoders, Scored, Spec


def label_efficiency(
    pretrainings: Iterable[Pretrain],
    settings: Settings,
    repeats: Mapping[float, int],
    *,
    per_class: Mapping[int, int] | None = None,
    probes: bool,
) -> Iterator[Spec]:
    """Yield each pre-training, then its views supervised, frozen and tuned, on few labels and on many.

    Args:
        pretrainings: one for each fold.
        settings: settings of the runs that follow.
        repeats: share of the labels -> number of repeats.
        per_class: labelled utterances of each class -> number of repeats.
        probes: whether to add logistic regressions.
    """
    amounts = [(fraction, None, count) for fraction, count in sorted(repeats.items())]
    amounts += [(1.0, number, count) for number, count in sorted((per_class or {}).items())]
    for start in pretrainings:
        yield start
        fold = start.fold
        for fraction, number, count in amounts:
            for labels in (Labels(fraction, number, repeat) for repeat in range(count)):
                for view in start.views:
                    yield Finetune(fold, view, None, False, labels, settings)
                    yield Finetune(fold, view, start, True, labels, settings)
                    yield Finetune(fold, view, start, False, labels, settings)
                    if probes:
                        yield Probe(fold, view, "probe-raw", None, labels, settings)
                        yield Probe(fold, view, "probe-random", None, labels, settings)
                        yield Probe(fold, view, "probe-pretrained", start, labels, settings)


@dataclass
class Group:
    """Specs of one fold that depend on one pre-training: what a process does in one go."""

    fold: int
    start: Pretrain | SavedEncoders | None
    """Pre-training that most of the runs start from; None where there is none."""
    pretraining: Pretrain | None = None
    """The same, where it is itself asked for."""
    runs: list[Scored | Measure] = field(default_factory=list)

    @property
    def specs(self) -> list[Spec]:
        """All specs, the pre-training first."""
        return [*([self.pretraining] if self.pretraining else []), *self.runs]

    def title(self, groups: "Sequence[Group]") -> str:
        """Return the fold, and what else tells this group from the others."""
        facts = [group._facts() for group in groups]
        varying = {name for found in facts for name in found if len({f.get(name) for f in facts}) > 1}
        differences = [text for name, text in self._facts().items() if name in varying]
        return ", ".join([f"fold {self.fold}", *differences])

    def _facts(self) -> dict[str, str]:
        """Views, extra corpora and settings of the pre-training, as titles name them."""
        if not isinstance(self.start, Pretrain):
            return {}
        facts = {"views": "+".join(self.start.views), "extra corpora": " + ".join(self.start.extra_corpora)}
        for name, value in asdict(self.start.settings.pretraining).items():
            facts[name] = f"{'tau' if name == 'temperature' else name} = {value}"
        return facts


def groups(specs: Iterable[Spec], shard: Shard = (1, 1)) -> list[Group]:
    """Group specs by fold and pre-training, in the order of the first of each; keep a process's share.

    Runs that start from no pre-training go with the one that was asked for last on their fold.
    """
    found: dict[object, Group] = {}
    latest: dict[int, Pretrain | SavedEncoders | None] = {}
    for spec in specs:
        if isinstance(spec, Pretrain):
            latest[spec.fold] = start = spec
        else:
            start = spec.start or latest.get(spec.fold)
        group = found.setdefault((spec.fold, start), Group(spec.fold, start))
        if isinstance(spec, Pretrain):
            group.pretraining = spec
        else:
            group.runs.append(spec)
    number, count = shard
    return list(found.values())[number - 1 :: count]
