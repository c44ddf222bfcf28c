"""All tables and figures of the finished runs, and what they say of the paper's claims, on one page.

    python -m experiments.report --runs runs

The command reads `records.jsonl` of the runs folder alone (and shows the figures that
`experiments.embeddings` left below it), whatever part of the runs is there. It writes `report/index.html`,
which needs no network; the same tables and figures as `report/tables/*.md`, `*.tex` (booktabs) and
`report/figures/*.svg`, `*.png`; and all tables in one file, `report/RESULTS-tables.md` (`--markdown FILE`
writes it elsewhere).

Runs of different corpora, settings, features or seeds never share a table: each has a section of its own.
Where encoders were pre-trained with several sets of views, the tables of single items show the largest;
where with several temperatures, the one with most runs. Exit code 1: a table could not be made, or
different runs claim one cell; the page says which.
"""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from experiments import claims, sparse_labels
from experiments.experiment import Choice, Exhibit, Experiment, all_experiments, choose, run_command
from experiments.figures import inline, save
from experiments.sections import Facts, Section, agree, differences, flatten, is_record, sections
from pcl_jax.commands import flags
from pcl_jax.commands.session import UsageError
from pcl_jax.config import Settings
from pcl_jax.corpora import READERS
from pcl_jax.runs import records
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.records import Row
from pcl_jax.runs.tables import NOT_RUN, Table, markdown_text

MARKDOWN = "RESULTS-tables.md"
"""File with all tables, below the report's folder."""


@dataclass(frozen=True)
class Report:
    """The page of what has been run."""

    runs: Path = Path("runs")
    """Folder of runs and their records; the report goes to `report` below it."""
    markdown: tuple[Path, ...] = ()
    """One file for all tables in Markdown, with commands and commits; none given: RESULTS-tables.md below
    the report."""
    debug: flags.Switch = False
    """Show the traceback of an error."""


class Shown(NamedTuple):
    """Exhibit of one section, as the page shows it."""

    heading: str
    anchor: str
    table: Table | None
    """None where nothing was run, or the table could not be made."""
    command: str
    """Command that makes its runs."""
    figures: list[str]
    """Pictures, as SVG."""
    error: str = ""

    @property
    def incomplete(self) -> bool:
        """Whether runs are missing."""
        return not self.error and (self.table is None or self.table.missing)


class Part(NamedTuple):
    """Section of the page."""

    title: str
    slug: str
    synthetic: bool
    findings: list[str]
    errors: list[str]
    shown: list[Shown]


class Page(NamedTuple):
    """Written report."""

    path: Path
    errors: list[str]
    """A line for each table that could not be made, and for each cell that different runs claim."""


def print_report(command: Report) -> int:
    """Write the report, say where it is and what is wrong with it; return the exit code."""
    from pcl_jax.commands import terminal

    files = command.markdown
    if len(files) > 1:
        raise UsageError(f"--markdown {' '.join(map(str, files))}: give one file for all tables")
    page = write(command.runs, files[0] if files else None)
    for error in page.errors:
        terminal.err.print(f"report: {error}", markup=False, highlight=False)
    terminal.out.print(f"report: {page.path}", markup=False, highlight=False)
    return 1 if page.errors else 0


def write(runs: Path, markdown: Path | None = None) -> Page:
    """Write the report of a runs folder.

    Args:
        runs: folder of runs and their records.
        markdown: file for all tables; None: `MARKDOWN` below the report.
    """
    import jinja2

    latest = {row["run"]: row for row in records.read(runs)}.values()
    rows = [row for row in latest if is_record(row)]
    folder = runs / "report"
    found = sections(rows)
    slugs = unique_slugs(found)
    parts = [
        make_part(section, found, slug, runs, folder / "figures")
        for section, slug in zip(found, slugs, strict=True)
    ]
    for part in parts:
        for shown in part.shown:
            if shown.table is not None:
                _write_table(folder / "tables" / f"{part.slug}-{slug_of(shown.table.title)}", part, shown)
    write_atomically(markdown or folder / MARKDOWN, all_markdown(zip(parts, found, strict=True)).encode())
    source = Path(__file__).with_name("report.html.jinja").read_text()
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    older = len(latest) - len(rows)
    text = template.render(parts=parts, runs=f"{len(rows):,}", older=older)
    write_atomically(folder / "index.html", text.encode())
    errors = [f"{part.title}: {error}" for part in parts for error in part.errors]
    errors += [f"{part.title}: {shown.error}" for part in parts for shown in part.shown if shown.error]
    return Page(folder / "index.html", errors)


def _write_table(path: Path, part: Part, shown: Shown) -> None:
    table = shown.table
    assert table is not None
    note = f"\n{table.note}\n" if table.note else ""
    title = markdown_text(f"{shown.heading}: {part.title}")
    write_atomically(path.with_name(f"{path.name}.md"), f"# {title}\n\n{table.markdown()}\n{note}".encode())
    write_atomically(path.with_name(f"{path.name}.tex"), table.latex().encode())


def all_markdown(parts: "Iterable[tuple[Part, Section]]") -> str:
    """Return all tables in Markdown, with the commands that made their runs, and the commits."""
    lines = ["# Tables of the finished runs", ""]
    for part, section in parts:
        lines += [f"## {markdown_text(part.title)}", "", f"Code: {versions_text(section.rows)}.", ""]
        if part.synthetic:
            lines += ["SYNTHETIC speech: nothing here says anything of people.", ""]
        lines += [f"- {markdown_text(text)}" for text in (*part.errors, *part.findings)] + [""]
        for shown in part.shown:
            if shown.table is not None:
                lines += [f"### {markdown_text(shown.heading)}", ""]
                lines += [f"`{shown.command}`", ""] if shown.command else []
                lines += [shown.table.markdown(), ""]
                lines += [shown.table.note, ""] if shown.table.note else []
    return "\n".join(lines)


def versions_text(rows: Sequence[Row]) -> str:
    """Return the versions of the package and the commits that made these rows.

    >>> versions_text([{"versions": {"pcl-jax": "0.1.0"}}])
    'pcl_jax 0.1.0, commit not recorded'
    """
    found = {(row["versions"].get("pcl-jax", "?"), row["versions"].get("commit")) for row in rows}
    texts = (
        f"pcl_jax {version}, " + (f"commit {commit}" if commit else "commit not recorded")
        for version, commit in sorted(found, key=str)
    )
    return "; ".join(texts)


def unique_slugs(found: Sequence[Section]) -> list[str]:
    """Return a name for the files of each section: its corpus, its data and its seed, then a number."""
    slugs: list[str] = []
    for section in found:
        facts = section.facts
        slug = slug_of(f"{facts['corpus']}-{facts['data and version'][:6]}-seed{facts['seed']}")
        number = 1 + sum(earlier == slug or earlier.startswith(f"{slug}-part") for earlier in slugs)
        slugs.append(slug if number == 1 else f"{slug}-part{number}")
    return slugs


def make_part(section: Section, every: Sequence[Section], slug: str, runs: Path, figures: Path) -> Part:
    """Make the tables and figures of one section; what cannot be made is said in its place."""
    rows, facts = section.rows, section.facts
    if not rows:
        return Part(str(facts["corpus"]), slug, False, [], section.conflicts, [])
    name, choice = facts["corpus"], choose(rows)
    main_rows = sparse_labels.select(rows, choice)
    titles = dict.fromkeys(row["title"] for row in main_rows)
    synthetic = any(row["synthetic"] for row in rows)
    where = f"--corpus {name if name in READERS else 'table'}" + ("" if synthetic else " --root DIR")
    text = differences(section, every)
    title = f"{name}: {', '.join(titles) or 'pre-training alone'}" + (f" ({text})" if text else "")
    shown = [_attempt("The paper's claims", slug, "", lambda: _table(claims.claims(rows, choice)))]
    for experiment in all_experiments():
        command = f"python -m experiments.{experiment.name} {where}"
        compared = rows_for(experiment, section, every)
        for exhibit in experiment.exhibits:
            made = show(exhibit, compared, choice, slug, command, runs, figures)
            shown += [made] if made else []
    shown.append(_attempt("Protocol", slug, "", lambda: _table(card(rows, facts))))
    findings, errors = [], list(section.conflicts)
    try:
        findings = [*claims.findings(main_rows), *begun_folds(main_rows)]
    except Exception as error:
        errors.append(_error_line("The findings", error))
    return Part(title, slug, synthetic, findings, errors, shown)


def rows_for(experiment: Experiment, section: Section, every: Sequence[Section]) -> list[Row]:
    """Return the rows that an experiment compares: a section's, and those that vary its settings.

    A comparison over sections stands in the first of them alone.
    """
    if not experiment.varies:
        return section.rows
    alike = [found for found in every if agree(section.facts, found.facts, experiment.varies)]
    if alike[0] is not section:
        return []
    return list({row["run"]: row for found in alike for row in found.rows}.values())


def show(
    exhibit: Exhibit,
    rows: Sequence[Row],
    choice: Choice,
    slug: str,
    command: str,
    runs: Path,
    figures: Path,
) -> Shown | None:
    """Make one exhibit; return None for an optional one of which nothing was run."""

    def make() -> tuple[Table, list[str]] | None:
        selected = exhibit.select(rows, choice)
        if not selected:
            return None
        table, pictures = exhibit.table(selected), []
        if exhibit.figure is not None:
            pictures = [save(exhibit.figure(selected), figures / f"{slug}-{slug_of(table.title)}")]
        if exhibit.saved_figure:
            paths = [runs / row["run"] / exhibit.saved_figure for row in selected]
            pictures = [inline(path.read_text()) for path in paths if path.is_file()]
        return table, pictures

    shown = _attempt(exhibit.item, slug, command, make)
    return None if exhibit.optional and shown.table is None and not shown.error else shown


def _table(table: Table) -> tuple[Table, list[str]]:
    return table, []


def _attempt(item: str, slug: str, command: str, make: Callable[[], tuple[Table, list[str]] | None]) -> Shown:
    """Make an exhibit; an error in it ends no other."""
    try:
        made = make()
    except Exception as error:
        return Shown(item, f"{slug}-{slug_of(item)}", None, command, [], _error_line(item, error))
    table, pictures = made or (None, [])
    heading = item if table is None or table.title == item else f"{item}: {table.title}"
    return Shown(heading, f"{slug}-{slug_of(heading)}", table, command, pictures)


def _error_line(item: str, error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"{item} could not be made: {type(error).__name__}: {error} ({place})"


def begun_folds(rows: Sequence[Row]) -> list[str]:
    """Return the folds whose runs enter no mean yet, in a sentence."""
    used = sparse_labels.folds_in_use(rows)
    folds = {row["fold"] for row in rows} - used
    return [f"Left out, because they have only begun: folds {_listed(folds)}."] if folds else []


def card(rows: Sequence[Row], facts: Facts) -> Table:
    """Return what a number needs to be compared."""
    first = rows[0]
    counts = ", ".join(f"{n} {name}" for name, n in zip(first["classes"], first["counts"], strict=True))
    scored = [row for row in rows if row["uar"] is not None]
    skipped = max((row.get("skipped", 0) for row in rows), default=0)
    lines = {
        "corpus": f"{first['corpus']}, {first['utterances']} utterances: {counts}"
        + (f"; {skipped} left out because their audio is bad" if skipped else ""),
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
            if row["temperature"] is not None
        ),
        "repeats": f"{len({row['repeat'] for row in scored})}, each its own labelled subset and start",
        "seed": str(first["seed"]),
        "UAR": "mean recall over the classes above; an absent class counts 0",
        "WA": "share of utterances that are right",
        "settings": changed_settings(facts),
        "device": _listed(row["device"] for row in rows),
        "versions": _listed(f"{name} {v}" for row in rows for name, v in row["versions"].items()),
    }
    return Table("Protocol", ("", ""), list(lines.items()))


def changed_settings(facts: Facts) -> str:
    """Return the settings that are not the usual ones.

    >>> changed_settings({"pretraining.epochs": 5, "finetuning.batch": 64})
    'pretraining.epochs = 5; the others are the defaults'
    """
    usual = flatten(asdict(Settings()))
    texts = [f"{name} = {facts[name]}" for name in usual if name in facts and facts[name] != usual[name]]
    return "; ".join([*texts, "the others are the defaults"]) if texts else "the defaults"


def _listed(items: Iterable) -> str:
    return ", ".join(map(str, sorted(set(items)))) or NOT_RUN


def slug_of(text: str) -> str:
    """Return a text as it can stand in a file's name and in an anchor."""
    kept = "".join(c if c.isalnum() else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


if __name__ == "__main__":
    run_command(Report, print_report, __doc__)
