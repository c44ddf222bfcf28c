"""`pcl suggest`: which clips of a table to label next."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import UsageError, choose_views, extract_features, read_usable
from pcl_jax.corpora.targets import parse_targets, with_targets
from pcl_jax.corpora.utterance import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pcl_jax.training.suggest import Suggestion

    Vectors = Mapping[str, np.ndarray]

EXPLANATION = {
    "typical": "typical of different groups of clips, because labels are few",
    "uncertain": "those that a classifier on today's labels is least sure of, from different groups",
}
"""Reason of suggestions -> text for people."""


def suggest(command: flags.Suggest) -> int:
    """Write a labelling table of the clips that are worth most."""
    from pcl_jax.features import store
    from pcl_jax.inference import labels as tables
    from pcl_jax.inference.vector_view import VectorView
    from pcl_jax.training.suggest import suggest as choose

    if command.table is None:
        raise UsageError("pcl suggest needs a table: pcl suggest TABLE.csv -n 20 --out to_label.csv")
    if command.number < 1:
        raise UsageError(f"-n {command.number}: give 1 or more")
    command = replace(command, corpus="table", root=command.table)
    corpus, skipped = tables.join(read_usable(replace(command, targets=())), command.labels)
    if command.targets:
        corpus = with_targets(corpus, parse_targets(command.targets))
    tables.require_unlabelled(command.out)
    default = () if command.speech_model else ("mel", "egemaps")
    views = choose_views(command, command.views or default)
    places = {n: store.place(command.features, corpus.name, n, view.describe()) for n, view in views.items()}
    pooled = {name: VectorView(view, places[name]) for name, view in views.items()}
    extraction = extract_features(command, pooled, corpus)
    left_out = skipped | set(extraction.skipped)
    left_out |= {u.id for u in corpus.utterances if u.emotion is not None and corpus.label(u) is None}
    utterances = [u for u in corpus.utterances if u.id not in left_out]
    vectors = {
        name: np.stack([extraction.stores[view.name][u.id] for u in utterances])
        for name, view in pooled.items()
    }
    labels = np.array([-1 if (c := corpus.label(u)) is None else c for u in utterances], int)
    if not (labels < 0).any():
        raise CorpusError(
            f"{command.table}: every clip has a label, or was skipped; there is none to suggest"
        )
    speakers = [u.speaker for u in utterances]
    kinds = {name: view.kind for name, view in views.items()}
    predicted = _predict(vectors, labels, speakers, kinds, command.seed)
    suggestions = choose(
        vectors, speakers, labels, command.number, log_probabilities=predicted, seed=command.seed
    )
    chosen = [utterances[suggestion.row] for suggestion in suggestions]
    tables.require_unlabelled(command.out)  # again: extraction may have taken an hour
    tables.write(command.out, tables.clips_of(chosen, command.out))
    _report(command, suggestions, len({u.speaker for u in chosen}))
    return 0


def _predict(
    vectors: "Vectors", labels: np.ndarray, speakers: "Sequence[str]", kinds: "Mapping[str, str]", seed: int
) -> np.ndarray | None:
    """Return what a classifier that is trained on these labels says of every clip; None if it cannot help."""
    from pcl_jax.training import recipe
    from pcl_jax.training.classifier import predict
    from pcl_jax.training.suggest import typical_is_better

    classes = int(labels.max()) + 1
    if classes < 2 or typical_is_better(labels):
        return None
    trained = recipe.probe(vectors, labels, speakers, classes, kinds=kinds, seed=seed)
    return predict(trained, vectors, speakers)


def _report(command: flags.Suggest, suggestions: "Sequence[Suggestion]", speakers: int) -> None:
    reason = EXPLANATION[suggestions[0].reason]
    count = f"{len(suggestions)} clips of {speakers} speakers"
    terminal.out.print(f"{count}: {reason}", markup=False, highlight=False)
    terminal.out.print(f"table: {command.out}", markup=False, highlight=False)
    table, out = shlex.quote(str(command.table)), shlex.quote(str(command.out))
    terminal.out.print(
        f"next: fill in its column emotion (or pcl demo MODEL --label {out}), then pcl learn {table} "
        f"--labels {' '.join([*map(shlex.quote, map(str, command.labels)), out])} --out MODEL",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
