"""Plans: the runs an experiment wants, in their order; shared out among processes; their records.

A plan costs nothing to make: what it holds may be done already, by this experiment or another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pcl_jax.features.store import Shard
from pcl_jax.runs.records import Row
from pcl_jax.runs.study import Pretrain, Probe, Study, Task


class Step(NamedTuple):
    """One run, in the study whose settings it has."""

    study: Study
    run: Pretrain | Task | Probe

    @property
    def folder(self) -> str:
        return self.study.relative(self.study.folder(self.run))


def label_efficiency(
    study: Study,
    folds: Iterable[int],
    repeats: Mapping[float, int],
    *,
    per_class: Mapping[int, int] | None = None,
    probes: bool,
) -> Iterator[Step]:
    """Of each fold: pre-training, then each view supervised, frozen and tuned, on few labels and on many.

    Args:
        repeats: share of the labels -> how often.
        per_class: labelled utterances of each class -> how often.
        probes: logistic regressions beside them.
    """
    amounts = [(fraction, None, times) for fraction, times in sorted(repeats.items())]
    amounts += [(1.0, count, times) for count, times in sorted((per_class or {}).items())]
    for fold in folds:
        yield Step(study, Pretrain(fold))
        encoders = study.pretraining_folder(fold)
        for fraction, count, times in amounts:
            for repeat in range(times):
                given = (fraction, repeat, count)
                for view in study.views:
                    yield Step(study, Task(fold, view, None, False, *given))
                    yield Step(study, Task(fold, view, encoders, True, *given))
                    yield Step(study, Task(fold, view, encoders, False, *given))
                    if probes:
                        yield Step(study, Probe(fold, view, "probe-raw", None, *given))
                        yield Step(study, Probe(fold, view, "probe-random", None, *given))
                        yield Step(study, Probe(fold, view, "probe-pretrained", encoders, *given))


class Group(NamedTuple):
    """The steps of one fold that depend on one pre-training: what a process does at a stretch."""

    study: Study
    fold: int
    pretrains: bool
    runs: list[Task | Probe]

    @property
    def steps(self) -> list[Step]:
        before: list[Pretrain | Task | Probe] = [Pretrain(self.fold)] if self.pretrains else []
        return [Step(self.study, run) for run in (*before, *self.runs)]

    def title(self, among: Sequence["Group"]) -> str:
        """The fold, and what else tells it from the others."""
        varying = zip(*(group._names() for group in among), strict=True)
        own = [name for name, values in zip(self._names(), varying, strict=True) if len(set(values)) > 1]
        return ", ".join([f"fold {self.fold}", *own])

    def _names(self) -> tuple[str, ...]:
        pretraining = self.study.settings.pretraining
        return "+".join(self.study.views), f"tau = {pretraining.temperature:g}", pretraining.subset


def groups(steps: Iterable[Step], shard: Shard = (1, 1)) -> list[Group]:
    """Steps by study and fold, in the order of the first of each; of those, a process's share."""
    found: dict[tuple[int, int], Group] = {}
    for study, run in steps:
        group = found.setdefault((id(study), run.fold), Group(study, run.fold, False, []))
        if isinstance(run, Pretrain):
            found[id(study), run.fold] = group._replace(pretrains=True)
        else:
            group.runs.append(run)
    number, count = shard
    return list(found.values())[number - 1 :: count]


def there(steps: Sequence[Step]) -> list[Row]:
    """The records there are of these steps, each once; but those of pre-trainings, which score nothing."""
    if not steps:
        return []
    done = steps[0].study.done()
    scored = [step.folder for step in steps if not isinstance(step.run, Pretrain)]
    return [done[folder] for folder in dict.fromkeys(scored) if folder in done]
