"""`pcl learn`: a table with a few labels -> honest numbers, and a model folder."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.estimates import LEARNING_COMPILE_S, fit_s
from pcl_jax.commands.session import UsageError, choose_views, extract_features, read_usable
from pcl_jax.corpora import leakage
from pcl_jax.corpora.headers import audio_files
from pcl_jax.corpora.rows import COLUMNS, read_rows
from pcl_jax.corpora.targets import parse_targets, with_targets
from pcl_jax.corpora.utterance import Corpus, CorpusError
from pcl_jax.features import store
from pcl_jax.inference import labels
from pcl_jax.inference.vector_view import VectorView
from pcl_jax.learn import evaluation, learning, report
from pcl_jax.learn.claims import UNKNOWN_SPEAKER
from pcl_jax.runs.files import remove_strays, write_atomically
from pcl_jax.training.cross_fit import FOLDS
from pcl_jax.training.pool import MOST_UNLABELLED
from pcl_jax.views.table import TableView
from pcl_jax.views.view import View


def learn(command: flags.Learn) -> int:
    """Learn, print the numbers, write the model folder; return the exit code."""
    if command.out is None:
        raise UsageError("pcl learn needs --out: the folder of the model")
    if command.most_unlabelled < 0:
        raise UsageError(f"--most-unlabelled {command.most_unlabelled}: give 0 or more")
    if command.json is not None and not command.json.absolute().parent.is_dir():
        raise UsageError(f"--json {command.json}: its folder is not there")
    out = command.out
    learning.require_place(out)
    command = _with_table(command, out)
    views = choose_views(command, command.views)
    if tables := [name for name, view in views.items() if isinstance(view, TableView)]:
        raise UsageError(
            f"--views {tables[0]}=...: a model computes its views from audio, so no table can be one"
        )
    corpus = read_labelled(command)
    leakage.check(corpus.utterances)
    corpus, remark = learning.choose_clips(corpus, command.most_unlabelled, command.seed)
    if remark:
        terminal.out.print(remark, markup=False, highlight=False)
    terminal.out.print(_plan(corpus, views), markup=False, highlight=False)
    corpus, vectors = extract_vectors(command, views, corpus)
    data = learning.data_of(corpus, vectors, views)
    facts = {"corpus": corpus.name, "views": {name: view.title for name, view in views.items()}}
    with terminal.bar("learn") as progress:
        found = learning.learn(
            data,
            views,
            out,
            seed=command.seed,
            facts=facts | {"remarks": [remark] if remark else []},
            synthetic=corpus.synthetic,
            finished=lambda done: progress(done, max(done, FOLDS * evaluation.STEPS)),
        )
    if command.json is not None:
        remove_strays(command.json)
        write_atomically(command.json, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    terminal.out.print(report.markdown(found), markup=False, highlight=False)
    terminal.out.print(f"model: {out}; report: {out / 'report.html'}", markup=False)
    return 0


def _plan(corpus: Corpus, views: Mapping[str, View]) -> str:
    """Return what `pcl learn` will do, and how long that takes at most on a CPU."""

    def about(fits: int, start_s: int) -> str:
        if jax.default_backend() != "cpu":
            return ""
        return f", {terminal.duration(start_s + fits * fit_s(labelled + unlabelled, len(views)))} at most"

    labels = [corpus.label(u) for u in corpus.utterances]
    labelled = sum(label is not None for label in labels)
    unlabelled = min(len(labels) - labelled, MOST_UNLABELLED)
    fits = FOLDS * evaluation.STEPS
    return (
        f"plan: 1. extract features where they are missing: {', '.join(views)}; "
        f"2. cross-validate within the {labelled:,} labels, {fits} fits or fewer"
        f"{about(fits, LEARNING_COMPILE_S)}; "
        f"3. refit on all labels and {unlabelled:,} unlabelled clips{about(1, 0)}"
    )


def read_labelled(command: flags.Learn) -> Corpus:
    """Read the corpus of a command, with the labels of the labelling tables that `pcl suggest` began.

    Raises:
        CorpusError: The corpus or a labelling table cannot be read, or they contradict each other.
    """
    if command.audio is not None or not command.labels:
        return read_usable(command)
    corpus, _ = labels.join(read_usable(replace(command, targets=())), command.labels)
    return with_targets(corpus, parse_targets(command.targets)) if command.targets else corpus


def extract_vectors(
    command: flags.OnAudio, views: dict[str, View], corpus: Corpus
) -> tuple[Corpus, dict[str, store.Store]]:
    """Return the corpus without unusable audio, and the store of each view's vectors.

    Vectors that are missing are computed: of stored features where they are there, else of the audio.

    Raises:
        CorpusError: Audio cannot be used, and `--on-bad-audio` is "error"; or too few labels are left.
    """
    pooled: dict[str, View] = {
        name: VectorView(view, store.place(command.features, corpus.name, name, view.describe()))
        for name, view in views.items()
    }
    extraction = extract_features(command, {view.name: view for view in pooled.values()}, corpus)
    utterances = tuple(u for u in corpus.utterances if u.id not in extraction.skipped)
    corpus = learning.choose_clips(replace(corpus, utterances=utterances), len(utterances), command.seed)[0]
    return corpus, {name: extraction.stores[view.name] for name, view in pooled.items()}


def _with_table(command: flags.Learn, out: Path) -> flags.Learn:
    """Return the command with its table as --corpus and --root.

    Raises:
        UsageError: No corpus, or more than one.
    """
    table = command.table
    if command.audio is not None:
        if len(command.labels) != 1:
            raise UsageError("--audio FOLDER needs --labels TABLE, one table")
        if table is not None:
            raise UsageError("give a table (perhaps with --labels), or --audio and --labels")
        table = _merge(command.audio, command.labels[0], out)
    if table is None:
        if command.root is None and command.corpus == "demo":
            raise UsageError("give a table: pcl learn TABLE.csv --out MODEL (or --corpus demo --root demo)")
        return command
    if command.root is not None or command.corpus not in ("demo", "table"):
        raise UsageError("give a table, or --corpus and --root, not both")
    return replace(command, corpus="table", root=table)


def _merge(audio: Path, labels: Path, out: Path) -> Path:
    """Write the table of a folder of audio: rows of the labels, then files without one, of unknown voices.

    Raises:
        CorpusError: The labels cannot be read, or the folder holds no audio.
    """
    columns, rows = read_rows(labels)
    files = audio_files(audio)
    if not files:
        raise CorpusError(f"{audio} holds no audio")
    names = [name for name in COLUMNS if name in columns and name != "session"]
    merged = [{name: row.get(name) for name in names} for row in rows]
    for row in merged:
        row["file"] = str((audio / str(row["file"]).strip()).absolute())
    known = {row["file"] for row in merged}
    for file in files:
        path = str(file.absolute())
        if path not in known:
            merged.append({"file": path, "speaker": f"{UNKNOWN_SPEAKER}{file.relative_to(audio)}"})
    table = out / learning.STEPS / "table.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged)
    return table
