"""All tables and figures of the finished runs, and what they say of the paper's claims, on one page.

    python -m experiments.report --runs runs

Reads `records.jsonl` of the runs folder alone (and shows the figures that `experiments.embeddings` left
below it), whatever part of the runs is there. Writes `report/index.html`, which needs no network, and the
same tables and figures as `report/tables/*.md`, `*.tex` (booktabs) and `report/figures/*.svg`, `*.png`.

Runs of different corpora, settings or seeds never share a table: each has a section of its own. Where
encoders were pre-trained with several sets of views, the tables of single items show the largest; where with
several temperatures, the one with most runs.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from experiments import (
    alignment,
    embeddings,
    freezing,
    pretraining_data,
    sparse_labels,
    temperature,
    views_ablation,
)
from experiments.claims import claims, findings
from experiments.figures import curves, inline, over_unlabelled, save
from pcl_jax import cli
from pcl_jax.commands import flags
from pcl_jax.runs import records
from pcl_jax.runs.checkpoint import write_atomically
from pcl_jax.runs.records import Row
from pcl_jax.runs.summary import amounts, labels, method_of, views
from pcl_jax.runs.tables import NOT_RUN, Table

HANDCRAFTED = ("mel", "egemaps")
SPARSE = ("2%", "5%")
"""Where the paper sees its gains."""


@dataclass(frozen=True)
class Report:
    """The page of what has been run."""

    runs: Path = Path("runs")
    """Folder of runs and their records; the report goes to `report` below it."""
    debug: flags.Switch = False
    """Show the traceback of an error."""


class Section(NamedTuple):
    """One corpus under one protocol."""

    title: str
    slug: str
    synthetic: bool
    findings: list[str]
    tables: list[Table]
    figures: dict[str, str]
    """Title of a table -> SVG that belongs to it."""
    commands: dict[str, str]
    """Title of a table -> what fills its empty cells."""
    card: Table


def main(command: Report) -> None:
    from pcl_jax.commands import terminal

    page = write(command.runs)
    terminal.out.print(f"report: {page}", highlight=False)


def write(runs: Path) -> Path:
    """The report of a runs folder; its page."""
    import jinja2

    latest = {row["run"]: row for row in records.read(runs)}.values()
    rows = [row for row in latest if "protocol" in row]  # versions before 0.1 had none
    folder = runs / "report"
    sections = [section(rows, runs, folder / "figures") for rows in by_protocol(rows)]
    for of in sections:
        for table in of.tables:
            name = f"{of.slug}-{_slug(table.title)}"
            note = f"\n{table.note}\n" if table.note else ""
            text = f"# {table.title}: {of.title}\n\n{table.markdown()}\n{note}"
            write_atomically(folder / "tables" / f"{name}.md", text.encode())
            write_atomically(folder / "tables" / f"{name}.tex", table.latex().encode())
    source = Path(__file__).with_name("report.html.jinja").read_text()
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source)
    page = folder / "index.html"
    write_atomically(page, template.render(sections=sections, runs=f"{len(rows):,}").encode())
    return page


def by_protocol(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that can stand in one table."""
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault((row["corpus"], row["protocol"], row["seed"]), []).append(row)
    return [of for _, of in sorted(found.items())]


class Chosen(NamedTuple):
    """What most of the pre-trainings of a section are; the tables of single items are about these."""

    views: tuple[str, ...]
    temperature: float | None

    def holds(self, row: Row) -> bool:
        """Whether a row is of this pre-training on everything, or of none."""
        of = row["method"] in ("supervised", "probe-raw", "probe-random")
        pretrained = (tuple(row["views"]), row["temperature"]) == self
        return row["view"] in self.views and (of or (pretrained and row["pretrained_on"] == "all"))


def choose(rows: Sequence[Row]) -> Chosen:
    """The largest set of views, and its most frequent temperature."""
    counts = Counter((tuple(row["views"]), row["temperature"]) for row in rows if row["views"])
    if not counts:
        return Chosen(tuple(dict.fromkeys(row["view"] for row in rows)), None)
    return Chosen(*max(counts, key=lambda key: (len(key[0]), counts[key])))


def section(rows: Sequence[Row], runs: Path, figures: Path) -> Section:
    """Everything there is to say of the rows of one protocol."""
    first, chosen = rows[0], choose(rows)
    scored = [row for row in rows if row["uar"] is not None]
    begun = [row for row in scored if chosen.holds(row)]
    main_rows = in_whole_folds(begun)
    titles = dict.fromkeys(row["title"] for row in main_rows)
    slug = _slug(f"{first['corpus']}-{first['protocol'][:6]}-seed{first['seed']}")
    made: list[tuple[Table, str]] = []
    drawn: dict[str, str] = {}

    efficiency = sparse_labels.table(main_rows)
    made.append((efficiency, "sparse_labels"))
    if main_rows:
        drawn[efficiency.title] = save(curves(main_rows), figures / f"{slug}-figure3")
    full = [row for row in scored if labels(row) == "100%" and _of_views(row, chosen.views)]
    if full:
        made.append((freezing.table([row for row in full if chosen.holds(row)]), "freezing"))
        fair = common_repeats(full)
        made.append((temperature.table(fair), "temperature"))
        if first["corpus"] == "iemocap":
            made.append((temperature.against_paper(fair), "temperature"))
    subsets = [
        row
        for row in scored
        if (method_of(row), tuple(row["views"]), row["temperature"]) == ("tuned", *chosen)
    ]
    chosen_sets = ("target", "out_of_distribution")
    asked = {labels(row) for row in subsets if row["pretrained_on"] in chosen_sets}
    other = {labels(row) for row in subsets if row["pretrained_on"] not in ("all", *chosen_sets)}
    supervised = [row for row in main_rows if method_of(row) == "supervised"]
    by_amount = [row for row in (*supervised, *subsets) if labels(row) in other]
    subsets = [row for row in subsets if labels(row) in asked]  # everything has more shares, from Figure 3
    if subsets:
        made.append((pretraining_data.table(subsets), "pretraining_data"))
    if by_amount:
        table = pretraining_data.amounts_table(by_amount)
        made.append((table, "pretraining_data"))
        drawn[table.title] = save(
            over_unlabelled(by_amount, pretraining_data.by_amount(by_amount)), figures / f"{slug}-unlabelled"
        )
    sets = [row for row in scored if method_of(row) in ("supervised", "tuned") and _plain(row, chosen)]
    asked = {labels(row) for row in sets if row["views"] and tuple(row["views"]) != chosen.views}
    sets = [row for row in sets if labels(row) in asked]
    if sets:
        made.append((views_ablation.table(sets), "views_ablation"))
    aligned = [row for row in rows if row["method"] == "alignment" and tuple(row["views"]) == chosen.views]
    made.append((alignment.table(aligned), "alignment"))
    seen = [row for row in rows if row["method"] == "embeddings" and tuple(row["views"]) == chosen.views]
    if seen:
        table = embeddings.table(seen)
        made.append((table, "embeddings"))
        pictures = [runs / row["run"] / "figure.svg" for row in seen]
        drawn[table.title] = "".join(inline(path.read_text()) for path in pictures if path.is_file())
    made += [(table, "sparse_labels") for table in confusions(main_rows)]

    verdicts = claims(main_rows, common_repeats(full), subsets)
    where = f"--corpus {first['corpus']}" + ("" if first["synthetic"] else " --root DIR")
    return Section(
        f"{first['corpus']}: {', '.join(titles) or 'pre-training alone'}",
        slug,
        first["synthetic"],
        findings(main_rows) + _left_out(begun, main_rows),
        [verdicts, *(table for table, _ in made)],
        drawn,
        {table.title: f"python -m experiments.{name} {where}" for table, name in made},
        card(rows),
    )


def in_whole_folds(rows: Sequence[Row]) -> list[Row]:
    """The rows of those folds that have all cells, if there is one: an experiment goes fold by fold."""
    cells: dict[int, set[tuple]] = {}
    for row in rows:
        cells.setdefault(row["fold"], set()).add((row["title"], labels(row), method_of(row)))
    most = max(cells.values(), key=len, default=set())
    return [row for row in rows if cells[row["fold"]] == most]


def _left_out(begun: Sequence[Row], kept: Sequence[Row]) -> list[str]:
    folds = {row["fold"] for row in begun} - {row["fold"] for row in kept}
    return [f"Left out, because they have only begun: folds {_listed(folds)}."] if folds else []


def _of_views(row: Row, of: tuple[str, ...]) -> bool:
    return row["method"] in ("supervised", "pairwise-cl") and (
        (tuple(row["views"]) == of and row["pretrained_on"] == "all")
        or (not row["views"] and row["view"] in of)
    )


def _plain(row: Row, chosen: Chosen) -> bool:
    return not row["views"] or (row["temperature"], row["pretrained_on"]) == (chosen.temperature, "all")


def common_repeats(rows: Sequence[Row]) -> list[Row]:
    """Those of repeats that every model has, so that means compare like with like."""
    by_model: dict[tuple, set[int]] = {}
    for row in rows:
        key = (row["title"], method_of(row), row["temperature"])
        by_model.setdefault(key, set()).add(row["repeat"])
    return [row for row in rows if all(row["repeat"] in repeats for repeats in by_model.values())]


def confusions(rows: Sequence[Row]) -> list[Table]:
    """Of each view, tuned on the most labels: all folds and repeats together."""
    found = []
    for view in views(rows):
        tuned = [row for row in rows if row["title"] == view and method_of(row) == "tuned"]
        if not tuned:
            continue
        most = amounts(tuned)[-1]
        counts = np.sum([row["confusion"] for row in tuned if labels(row) == most], axis=0)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        classes = tuned[0]["classes"]
        lines = [(name, *(f"{share:.0f}" for share in of)) for name, of in zip(classes, shares, strict=True)]
        note = (
            f"Tuned on {most} of the labels; % of the utterances of each line's emotion, all folds together."
        )
        found.append(Table(f"Confusions, {view}", ("emotion", *classes), lines, note))
    return found


def card(rows: Sequence[Row]) -> Table:
    """What a number needs beside it to be compared."""
    first = rows[0]
    counts = ", ".join(f"{n} {name}" for name, n in zip(first["classes"], first["counts"], strict=False))
    scored = [row for row in rows if row["uar"] is not None]
    facts = {
        "corpus": f"{first['corpus']}, {first['utterances']} utterances: {counts}",
        "folds": f"test sessions {_listed(row['fold'] for row in rows)}; validation session s mod 5 + 1; "
        "the other three train, for pre-training too; no speaker in two sessions",
        "features": _listed(row["title"] for row in scored),
        "normalised by": {
            "fold": "statistics of the fold's training utterances",
            "speaker": "each speaker's own unlabelled audio, test speakers included (transductive)",
            "none": "nothing",
        }[first["normalise"]],
        "pre-training": _listed(
            f"{' + '.join(row['views'])}, tau = {row['temperature']:g}, {row['pretrained_on']}"
            for row in rows
            if row["method"] == "pretraining"
        ),
        "repeats": f"{len({row['repeat'] for row in scored})}, each its own labelled subset and start",
        "seed": str(first["seed"]),
        "UAR": "mean recall over the classes above; an absent class counts 0",
        "WA": "share of utterances that are right",
        "settings": first["protocol"],
        "device": _listed(row["device"] for row in rows),
        "versions": _listed(f"{name} {v}" for row in rows for name, v in row["versions"].items()),
    }
    return Table("Protocol", ("", ""), list(facts.items()))


def _listed(items: Iterable) -> str:
    return ", ".join(map(str, sorted(set(items)))) or NOT_RUN


def _slug(text: str) -> str:
    kept = "".join(c if c.isalnum() else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


if __name__ == "__main__":
    command = tyro.cli(Report, description=__doc__, args=sys.argv[1:])
    cli.guarded(lambda: main(command), debug=command.debug)
