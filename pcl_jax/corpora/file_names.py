"""Reader of corpora whose labels are part of the file names, given a parser of names."""

import filecmp
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pcl_jax.corpora.grouping import group_speakers
from pcl_jax.corpora.headers import SUFFIXES, audio_files, audio_problems, measure
from pcl_jax.corpora.targets import Targets
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance


@dataclass(frozen=True)
class FileName:
    """Labels that a file name holds."""

    speaker: str
    emotion: str


@dataclass(frozen=True)
class Preference:
    """Rule that picks one of several files of the same utterance."""

    rank: Callable[[Path], int | None]
    """Rank of a file, by its path relative to the root: the lowest is preferred, None is never taken."""
    reason: str
    """Reason in words, for the report."""
    utterance: Callable[[str], str] = str
    """Name of the utterance, by the stem of a file."""
    formats: bool = False
    """Whether the release has recordings in several formats: then an ignored format is not reported."""


def read_named(
    name: str,
    root: Path,
    *,
    parse: Callable[[str], FileName | Problem],
    genders: Mapping[str, str],
    targets: Targets,
    preference: Preference,
) -> Corpus:
    """Read every audio file below `root`, at any depth, whose name `parse` understands.

    An utterance is taken once: from the files that `preference` ranks first, in the first format of
    `headers.SUFFIXES` (CREMA-D comes as WAV and MP3). Files that are ignored for it are reported.

    Raises:
        CorpusError: `root` is not a folder, or holds no audio; files of one name and rank differ in content.
    """
    candidates: defaultdict[str, list[Path]] = defaultdict(list)
    names: dict[Path, FileName] = {}
    problems: list[Problem] = []
    files = audio_files(root)
    if not files:
        raise CorpusError(
            f"{root} holds no audio ({', '.join(SUFFIXES)}); give the folder of {name} as --root"
        )
    for path in files:
        parsed = parse(path.stem)
        if isinstance(parsed, Problem):
            problems.append(Problem(parsed.kind, str(path), f"{path}: {parsed.message}", lost=parsed.lost))
        elif preference.rank(path.relative_to(root)) is None:
            problems.append(Problem("not_speech", str(path), f"{path}: ignored; {preference.reason}"))
        else:
            names[path] = parsed
            candidates[preference.utterance(path.stem)].append(path)

    chosen, remarks = _choose(root, candidates, preference)
    durations, faults = measure(chosen)
    sessions = group_speakers(Counter(names[path].speaker for path in chosen), genders)
    utterances = tuple(
        Utterance(
            id=path.stem,
            path=path,
            session=sessions[names[path].speaker],
            speaker=names[path].speaker,
            emotion=names[path].emotion,
            duration_s=durations[path],
        )
        for path in sorted(chosen, key=lambda path: path.stem)
        if path in durations
    )
    return Corpus(name, utterances, targets, (*problems, *remarks, *audio_problems(faults, chosen)))


def unknown_name(example: str) -> Problem:
    """Return the problem of a name of another form; `read_named` adds the file."""
    return Problem("unknown_name", "", f"not a file name of this corpus (like {example}), left out")


def _choose(
    root: Path, candidates: Mapping[str, list[Path]], preference: Preference
) -> tuple[list[Path], list[Problem]]:
    """Pick one file of each utterance; report the others."""
    chosen: list[Path] = []
    remarks: list[Problem] = []
    formats: list[tuple[Path, Path]] = []
    contested: list[tuple[Path, Path]] = []

    def rank(path: Path) -> int:
        return preference.rank(path.relative_to(root)) or 0

    def format_rank(path: Path) -> int:
        return SUFFIXES.index(path.suffix.lower())

    for paths in candidates.values():
        first, *others = sorted(paths, key=lambda path: (rank(path), format_rank(path), path))
        chosen.append(first)
        for path in others:
            if rank(path) != rank(first):
                message = f"{path}: the utterance of {first}, ignored; {preference.reason}"
                remarks.append(Problem("duplicate_id", str(path), message))
            elif format_rank(path) != format_rank(first):
                formats.append((first, path))
            elif _same_content(first, path):
                message = f"{path}: same name and content as {first}, ignored; delete one of them"
                remarks.append(Problem("duplicate_id", str(path), message))
            else:
                contested.append((first, path))
    if contested:
        first, path = contested[0]
        raise CorpusError(
            f"{first} and {path} have one name and different contents, as have {len(contested) - 1} more "
            "pairs: which is the corpus? give one of the folders as --root, or remove the other"
        )
    if formats and not preference.formats:
        first, path = formats[0]
        message = f"{len(formats)} files are ignored, as the same recording is there in a preferred format"
        remarks.append(Problem("other_format", str(path), f"{message}: {path} beside {first}"))
    return chosen, remarks


def _same_content(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:  # a link to a file that is gone
        return False
