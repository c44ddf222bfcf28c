"""Reader of corpora whose labels are part of the file names, given a parser of names."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pcl_jax.corpora.grouping import group_speakers
from pcl_jax.corpora.headers import SUFFIXES, audio_files, measure
from pcl_jax.corpora.targets import Targets
from pcl_jax.corpora.utterance import Corpus, CorpusError, Problem, Utterance


@dataclass(frozen=True)
class FileName:
    """Labels that a file name holds."""

    speaker: str
    emotion: str


def read_named(
    name: str,
    root: Path,
    *,
    parse: Callable[[str], FileName | Problem],
    genders: Mapping[str, str],
    targets: Targets,
) -> Corpus:
    """Read every audio file below `root`, at any depth, whose name `parse` understands.

    A recording that is there in several formats (CREMA-D comes as WAV and MP3) is taken once, in
    the first of `headers.SUFFIXES`.

    Raises:
        CorpusError: `root` is not a folder, or holds no audio.
    """
    chosen: dict[str, Path] = {}
    names: dict[str, FileName] = {}
    problems: list[Problem] = []
    files = audio_files(root)
    if not files:
        raise CorpusError(
            f"{root} holds no audio ({', '.join(SUFFIXES)}); give the folder of {name} as --root"
        )
    for path in sorted(files, key=lambda path: (SUFFIXES.index(path.suffix.lower()), path)):
        parsed = parse(path.stem)
        if isinstance(parsed, Problem):
            problems.append(Problem(parsed.kind, str(path), f"{path}: {parsed.message}"))
        elif path.stem not in chosen:
            chosen[path.stem], names[path.stem] = path, parsed
        elif chosen[path.stem].suffix.lower() == path.suffix.lower():
            message = f"{path}: same name as {chosen[path.stem]}, left out; delete one of them"
            problems.append(Problem("duplicate_id", str(path), message))

    durations, faults = measure(chosen.values())
    sessions = group_speakers(Counter(parsed.speaker for parsed in names.values()), genders)
    utterances = tuple(
        Utterance(
            id=stem,
            path=path,
            session=sessions[names[stem].speaker],
            speaker=names[stem].speaker,
            emotion=names[stem].emotion,
            duration_s=durations[path],
        )
        for stem, path in sorted(chosen.items())
        if path in durations
    )
    return Corpus(name, utterances, targets, (*problems, *faults))


def unknown_name(example: str) -> Problem:
    """Return the problem of a name of another form; `read_named` adds the file."""
    return Problem("unknown_name", "", f"not a file name of this corpus (like {example}), left out")
