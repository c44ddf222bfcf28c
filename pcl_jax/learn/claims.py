"""Claims: what the numbers of an evaluation cannot support, in plain words."""

from collections import Counter, defaultdict

from pcl_jax.learn.evaluation import Data, Evaluation

UNKNOWN_SPEAKER = "unknown speaker of "
"""Beginning of the speaker's name of a file of which nobody said who speaks."""
FEW_SPEAKERS = 5
"""Labelled speakers below which an interval over speakers is rough."""


def limits(data: Data, evaluation: Evaluation, normalise: str, *, synthetic: bool = False) -> list[str]:
    """List what cannot be claimed, one sentence or two each.

    Args:
        data: What was learned from.
        evaluation: Its cross-validation.
        normalise: The normalisation that the model chose, "fold" or "speaker".
        synthetic: Whether the speech is synthetic.
    """
    found = ["The speech is SYNTHETIC: nothing here holds for people."] if synthetic else []
    pairs = [(s, int(label)) for s, label in zip(data.speakers, data.labels, strict=True) if label >= 0]
    speakers = {speaker for speaker, _ in pairs}
    found += _few_speakers(len(speakers))
    counts = Counter(label for _, label in pairs)
    for number, name in enumerate(data.classes):
        if counts[number] <= 1:
            what = "one label" if counts[number] else "no label"
            found.append(f"{name} has {what}: its recall cannot be tested, so no UAR is given.")
        elif name in evaluation.untestable:
            found.append(
                f"All labels of {name} are of speakers that are tested together: its recall cannot be "
                "tested, so no UAR is given. Label it for one more speaker."
            )
    found += _one_class_each(pairs)
    nameless = [speaker for speaker in data.speakers if speaker.startswith(UNKNOWN_SPEAKER)]
    if nameless:
        found.append(
            f"Who speaks in {len(nameless)} unlabelled files is not known. If it is a speaker with labels, "
            "the estimate has heard his or her voice in training."
        )
    silent = set(data.speakers) - speakers - set(nameless)
    if silent:
        found.append(
            f"{len(silent)} speakers have unlabelled clips only, which the final model has heard. The "
            "estimate is for voices that it has never heard; on these speakers it may do better."
        )
    if normalise == "speaker":
        found.append(
            "The model is normalised per speaker. The estimate holds where it is known who speaks and a "
            "speaker has several clips (`--speaker`); without that expect less."
        )
    found.append(
        "The estimate is for other speakers recorded like these. Another language, room, microphone or way "
        "of eliciting emotion is not covered."
    )
    return found


def _few_speakers(count: int) -> list[str]:
    if count == 1:
        return [
            "All labels are of one speaker: the estimate is for further clips of this speaker, and nothing "
            "can be said of other voices."
        ]
    if count == 2:
        return [
            "The labels are of two speakers: each one tests a model of the other. The interval cannot be "
            "trusted."
        ]
    if count < FEW_SPEAKERS:
        return [f"The labels are of {count} speakers only: the interval is rough."]
    return []


def _one_class_each(pairs: list[tuple[str, int]]) -> list[str]:
    """Warn where most speakers that have two labels or more have one class only."""
    labels: dict[str, list[int]] = defaultdict(list)
    for speaker, label in pairs:
        labels[speaker].append(label)
    several = [found for found in labels.values() if len(found) > 1]
    single = sum(len(set(found)) == 1 for found in several)
    if not several or single <= len(several) / 2:
        return []
    return [
        f"{single} of {len(several)} speakers with two labels or more have one emotion only: a model may "
        "tell voices apart in place of emotions, and normalising per speaker would remove the emotion."
    ]
