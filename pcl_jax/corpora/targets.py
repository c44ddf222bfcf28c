"""Target classes of a task, each with the emotions merged into it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pcl_jax.corpora.spelling import tidy
from pcl_jax.corpora.utterance import Corpus, CorpusError

Targets = Mapping[str, tuple[str, ...]]

FOUR: Targets = {"neutral": ("neutral",), "angry": ("angry",), "sad": ("sad",), "happy": ("happy",)}
"""The four classes of the paper, in its order."""


def parse_targets(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse the words of `--targets`: classes in order, `CLASS=EMOTION+EMOTION` where they merge emotions.

    Example:
        >>> parse_targets(["neutral", "happy=happy+excited"])
        {'neutral': ('neutral',), 'happy': ('happy', 'excited')}

    Raises:
        CorpusError: A name is empty, a class is given twice, or an emotion is in two classes.
    """
    targets: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, merged = map(tidy, word.partition("="))
        emotions = tuple(map(tidy, merged.split("+"))) if equals else (name,)
        if not name or not all(emotions):
            raise CorpusError(f"--targets {word!r} has an empty name; write CLASS or CLASS=EMOTION+EMOTION")
        if name in targets:
            raise CorpusError(f"--targets names the class {name!r} twice; merge: {name}=EMOTION+EMOTION")
        targets[name] = emotions
    _refuse_repeated_emotions(targets)
    return targets


def with_targets(corpus: Corpus, targets: Targets) -> Corpus:
    """Return the corpus with other classes.

    Raises:
        CorpusError: No utterance has one of the emotions, an emotion is in two classes, or there is only one
            class.
    """
    _refuse_repeated_emotions(targets)
    known = sorted({u.emotion for u in corpus.utterances if u.emotion is not None})
    for name, emotions in targets.items():
        for emotion in emotions:
            if emotion not in known:
                raise CorpusError(
                    f"no utterance of {corpus.name} is {emotion!r} (target {name!r}); it has: "
                    + (", ".join(known) or "no emotions")
                )
    if len(targets) < 2:
        raise CorpusError(
            f"--targets {' '.join(targets)} is one class: there is nothing to tell apart; give two or "
            f"more of: {', '.join(known)}"
        )
    return replace(corpus, targets=dict(targets))


def _refuse_repeated_emotions(targets: Targets) -> None:
    owner: dict[str, str] = {}
    for name, emotions in targets.items():
        for emotion in emotions:
            if emotion in owner:
                raise CorpusError(
                    f"targets count {emotion!r} twice, in {owner[emotion]!r} and {name!r}; keep one of them"
                )
            owner[emotion] = name
