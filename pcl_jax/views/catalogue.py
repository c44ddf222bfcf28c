"""The views there are, by name, and which of them a run uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pcl_jax.config import Egemaps, Mel, SpeechModels
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView
from pcl_jax.views.speech_models.checkpoint import DEFAULT_CHECKPOINTS, family_of
from pcl_jax.views.speech_models.model import UNTRAINED, Family
from pcl_jax.views.speech_models.view import SpeechModelView
from pcl_jax.views.table import TableView
from pcl_jax.views.view import View


def catalogue(
    mel: Mel | None = None,
    egemaps: Egemaps | None = None,
    speech: SpeechModels | None = None,
    checkpoints: Sequence[str] = (),
) -> dict[str, View]:
    """All views, made with these parameters. A new view is one line here.

    Args:
        checkpoints: of speech models, each for the view of its own family (hub names, folders, files);
            `untrained` stands in for every family that none of the others is of, else the family's
            base model does. Nothing is loaded before it is used.

    Raises:
        FileNotFoundError: a checkpoint that cannot be had.
        ValueError: one that is not supported, or two of one family.
    """
    named: dict[Family, str] = {}
    for checkpoint in checkpoints:
        if checkpoint == UNTRAINED:
            continue
        family = family_of(checkpoint)
        if family in named:
            raise ValueError(f"{named[family]} and {checkpoint} are both {family} models: give one of them")
        named[family] = checkpoint
    rest = UNTRAINED if UNTRAINED in checkpoints else ""
    views: tuple[View, ...] = (
        MelView(mel or Mel()),
        EgemapsView(egemaps or Egemaps()),
        *(
            SpeechModelView(family, named.get(family, rest), speech or SpeechModels())
            for family in DEFAULT_CHECKPOINTS
        ),
    )
    return {view.name: view for view in views}


class Choice(NamedTuple):
    """The views of a run."""

    views: dict[str, View]
    remark: str = ""
    """What the user has to know of the choice."""


def choose(known: dict[str, View], names: Sequence[str], checkpoints: Sequence[str]) -> Choice:
    """The views of these names; by default mel, egemaps and the speech models of the checkpoints.

    `my=vectors.parquet` is a view of that name, made elsewhere.

    With neither names nor checkpoints the third view is wav2vec 2.0 base, as in the paper. Where that cannot
    be had, a run that did not ask for it goes on with two views, and says so.

    Raises:
        ValueError: an unknown name, or one given twice.
    """
    imported = [name.split("=", 1) for name in names if "=" in name]
    for name, _ in imported:
        if name in known:
            raise ValueError(f"{name!r} is a view already: give the table another name in --views")
    known = known | {name: TableView(name, Path(table)) for name, table in imported}
    names = [name.split("=", 1)[0] for name in names]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown view {name!r} in --views; choose from {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--views {' '.join(names)} names a view twice")
    if names:
        return Choice({name: known[name] for name in names})
    handcrafted = {name: known[name] for name in ("mel", "egemaps")}
    families = [family_of(checkpoint) for checkpoint in checkpoints]
    if families:
        return Choice(handcrafted | {family: known[family] for family in families})
    try:
        known["wav2vec2"].describe()
    except FileNotFoundError as error:
        return Choice(
            handcrafted,
            f"{error}\nGoing on with two views, {' and '.join(handcrafted)}; the paper's third is a speech "
            "model: --speech-model.",
        )
    return Choice(handcrafted | {"wav2vec2": known["wav2vec2"]})
