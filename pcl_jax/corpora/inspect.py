"""Inspection of a corpus: its counts, and all its problems."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pcl_jax import audio
from pcl_jax.audio import AudioError
from pcl_jax.corpora.folds import labelled, leave_one_session_out, obstacles
from pcl_jax.corpora.leakage import Digests, shared_recordings
from pcl_jax.corpora.utterance import Corpus, Problem

UNLABELLED = "unlabelled"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# The terminal shows the first faults of a kind; the JSON has them all.
_SHOWN_PER_KIND = 5


@dataclass(frozen=True)
class Inspection:
    """Counts and problems of a corpus."""

    corpus: str
    synthetic: bool
    usable: bool
    """Whether no problem is fatal: five folds can be made, and every class can be learned in each."""
    utterances: int
    hours: float
    targets: Mapping[str, int]
    """Utterances per class."""
    per_session: Mapping[int, Mapping[str, int]]
    """Utterances per session and class."""
    emotions: Mapping[int, Mapping[str, int]]
    """Utterances per session and emotion, or "unlabelled"."""
    speakers: Mapping[int, tuple[str, ...]]
    subsets: Mapping[str, int]
    """Utterances of "target", "all" and "out_of_distribution"."""
    duration_s: Mapping[str, float]
    """Durations in seconds, by quantile ("0.5")."""
    left_out: int
    """Number of utterances that the data claim and the corpus lacks."""
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the inspection in JSON types; every key is a string."""
        return {
            **asdict(self),
            "targets": dict(self.targets),
            "per_session": {str(session): dict(counts) for session, counts in self.per_session.items()},
            "emotions": {str(session): dict(counts) for session, counts in self.emotions.items()},
            "speakers": {str(session): list(names) for session, names in self.speakers.items()},
            "subsets": dict(self.subsets),
            "duration_s": dict(self.duration_s),
            "problems": [asdict(problem) for problem in self.problems],
        }


def inspect(corpus: Corpus) -> Inspection:
    """Count utterances and collect problems; reads every byte of the audio, to find duplicates."""
    utterances = corpus.utterances
    sessions = sorted({u.session for u in utterances})
    digests = audio.file_digests(u.path for u in utterances)
    problems = (
        *corpus.problems,
        *obstacles(corpus),
        *_class_problems(corpus),
        *shared_recordings(utterances, digests),
        *_duplicates(digests),
    )
    per_session: dict[int, dict[str, int]] = {}
    emotions: dict[int, dict[str, int]] = {}
    for session in sessions:
        members = [u for u in utterances if u.session == session]
        class_counts = Counter(corpus.label(u) for u in members)
        per_session[session] = {name: class_counts[i] for i, name in enumerate(corpus.classes)}
        emotions[session] = dict(sorted(Counter(u.emotion or UNLABELLED for u in members).items()))
    return Inspection(
        corpus=corpus.name,
        synthetic=corpus.synthetic,
        usable=not any(problem.fatal for problem in problems),
        utterances=len(utterances),
        hours=sum(u.duration_s for u in utterances) / 3600,
        targets={name: sum(counts[name] for counts in per_session.values()) for name in corpus.classes},
        per_session=per_session,
        emotions=emotions,
        speakers={s: tuple(sorted({u.speaker for u in utterances if u.session == s})) for s in sessions},
        subsets={name: len(corpus.subset(name)) for name in ("target", "all", "out_of_distribution")},
        duration_s=_quantiles([u.duration_s for u in utterances]),
        left_out=corpus.left_out.count,
        problems=problems,
    )


def render(inspection: Inspection) -> Group:
    """Render the inspection for a terminal: `rich.print(render(inspection))`."""
    title = f"{inspection.corpus}: {inspection.utterances:,} utterances, {inspection.hours:.2f} h"
    if inspection.synthetic:
        title += " of SYNTHETIC speech"
    classes = tuple(inspection.targets)
    table = Table(title=Text(title), title_justify="left")
    for heading in ("session", "speakers", *classes, "no target", "all"):
        table.add_column(Text(heading), justify="left" if heading in ("session", "speakers") else "right")
    for session, counts in inspection.per_session.items():
        everything = sum(inspection.emotions[session].values())
        speakers = inspection.speakers[session]
        shown = ", ".join(speakers) if len(speakers) <= 6 else f"{len(speakers)} speakers"
        cells = [*counts.values(), everything - sum(counts.values()), everything]
        table.add_row(str(session), Text(shown), *(f"{cell:,}" for cell in cells))
    table.add_section()
    cells = [*inspection.targets.values(), inspection.subsets["out_of_distribution"], inspection.utterances]
    table.add_row("all", "", *(f"{cell:,}" for cell in cells))

    lines: list[str] = []
    total: Counter[str] = Counter()
    for counts in inspection.emotions.values():
        total.update(counts)
    lines.append("emotions: " + ", ".join(f"{name} {count:,}" for name, count in total.most_common()))
    subsets = (f"{name.replace('_', ' ')} {count:,}" for name, count in inspection.subsets.items())
    lines.append("subsets: " + ", ".join(subsets))
    quantiles = (f"{float(q):.0%} {value:.2f}" for q, value in inspection.duration_s.items())
    lines.append("duration in s, by quantile: " + ", ".join(quantiles))
    parts = [table, *map(Text, lines), *map(Text, _problem_lines(inspection))]
    return Group(*parts)


def _problem_lines(inspection: Inspection) -> Iterable[str]:
    if not inspection.problems:
        yield "problems: none"
    kinds = Counter(problem.kind for problem in inspection.problems)
    for kind, count in kinds.items():
        same_kind = [problem for problem in inspection.problems if problem.kind == kind]
        lost = sum(problem.lost for problem in same_kind)
        yield f"{kind} ({count:,}" + (f", {lost:,} utterances left out):" if lost else "):")
        for problem in same_kind[:_SHOWN_PER_KIND]:
            yield f"  {'FATAL: ' if problem.fatal else ''}{problem.message}"
        if count > _SHOWN_PER_KIND:
            yield f"  ... and {count - _SHOWN_PER_KIND:,} more; --json lists all"
    yield "usable" if inspection.usable else "NOT USABLE: mend what is fatal above"


def _quantiles(durations_s: Sequence[float]) -> dict[str, float]:
    if not durations_s:
        return {}
    values = np.quantile(durations_s, QUANTILES)
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, values, strict=True)}


def _class_problems(corpus: Corpus) -> Iterable[Problem]:
    """Report classes that cannot be learned or tested."""
    if not corpus.targets:
        message = (
            f"{corpus.name} has no emotions: it serves pre-training, but nothing can be fine-tuned or tested"
        )
        yield Problem("no_targets", corpus.name, message)
    if len(corpus.classes) == 1:
        message = f"{corpus.name} has one class, {corpus.classes[0]!r}: nothing can be told apart"
        yield Problem("one_class", corpus.name, message)
    if obstacles(corpus) or any(problem.fatal for problem in corpus.problems):
        return
    for fold in leave_one_session_out(corpus):
        for part, utterances in (("training", fold.train), ("test", fold.test)):
            present = {corpus.label(u) for u in labelled(utterances, corpus)}
            for index, name in enumerate(corpus.classes):
                if index not in present:
                    yield Problem(
                        "absent_class",
                        f"fold {fold.test_session} {name}",
                        f"fold {fold.test_session} has no {name} in its {part} sessions; "
                        "merge or leave out the class with --targets",
                        fatal=part == "training",
                    )


def _duplicates(digests: Digests) -> Iterable[Problem]:
    """Report files with the same bytes."""
    first: dict[str, Path] = {}
    for path, digest in sorted(digests.items()):
        if isinstance(digest, AudioError):
            continue  # gone or forbidden since its header was read; decoding will say so
        if (original := first.setdefault(digest, path)) != path:
            yield Problem("duplicate", str(path), f"{path}: the same bytes as {original}; delete one of them")
