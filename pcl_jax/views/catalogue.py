"""The views there are, their parameters, and which of them a run uses.

Importing this module loads no heavy library: the command line is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import Mel, MelView
from pcl_jax.views.speech_models.families import DEFAULT_CHECKPOINTS, UNTRAINED, Family
from pcl_jax.views.speech_models.view import SpeechModels, SpeechModelView
from pcl_jax.views.view import View

VIEWS: dict[str, type[Any]] = {
    "mel": MelView,
    "egemaps": EgemapsView,
}
"""The views that need nothing but the waveform, by name. A new view is one line here; its field `config`, if
it has one, becomes a field of `ViewSettings` and so the flags `--NAME.FIELD`."""


def _configurable(views: Mapping[str, type[Any]]) -> list[tuple[str, type, Any]]:
    """Return name, type and default of the settings of every view that has any."""
    hints = {name: get_type_hints(view) for name, view in views.items()}
    configs = {name: hint["config"] for name, hint in hints.items() if "config" in hint}
    configs["speech"] = SpeechModels  # of all families
    return [(name, config, field(default_factory=config)) for name, config in configs.items()]


class ViewSettings(make_dataclass("ViewSettings", _configurable(VIEWS), frozen=True)):
    """The parameters of the views: `mel`, `egemaps`, and `speech` for the speech models of all families.

    >>> ViewSettings().mel.bands, ViewSettings(mel=Mel(bands=80)).mel.bands
    (64, 80)
    """


def authors() -> ViewSettings:
    """Return the parameters of the authors' public code where the paper is silent; see `config.authors`.

    >>> authors().mel.log
    False
    """
    return ViewSettings(mel=Mel(log=False))


def catalogue(settings: ViewSettings | None = None, checkpoints: Sequence[str] = ()) -> dict[str, View]:
    """Make all views, by name. Nothing is loaded before it is used.

    Args:
        settings: Their parameters; None: the defaults.
        checkpoints: Speech models, each for the view of its own family (hub names, folders, files).
            `untrained` stands in for every family that none of the others belongs to; without it the base
            model of the family does.

    Raises:
        FileNotFoundError: A checkpoint is not on this machine and cannot be fetched.
        ValueError: A checkpoint is not supported, or two of one family.
    """
    configs = vars(settings or ViewSettings())
    named = _by_family(checkpoints)
    rest = UNTRAINED if UNTRAINED in checkpoints else ""
    views: list[View] = [view(configs[name]) if name in configs else view() for name, view in VIEWS.items()]
    for family in DEFAULT_CHECKPOINTS:
        views.append(SpeechModelView(family, named.get(family, rest), configs["speech"]))
    return {view.name: view for view in views}


def _by_family(checkpoints: Sequence[str]) -> dict[Family, str]:
    """Return the checkpoint of each family that has one."""
    from pcl_jax.views.speech_models.checkpoint import family_of

    named: dict[Family, str] = {}
    for checkpoint in checkpoints:
        if checkpoint == UNTRAINED:
            continue
        family = family_of(checkpoint)
        if family in named:
            raise ValueError(f"{named[family]} and {checkpoint} are both {family} models: give one of them")
        named[family] = checkpoint
    return named


def check_names(names: Sequence[str]) -> None:
    """Check names of views, without looking at any model or table.

    Raises:
        ValueError: An unknown name, the name of another view for a table, or a name given twice.
    """
    known = (*VIEWS, *DEFAULT_CHECKPOINTS)
    for name, is_table, _ in (word.partition("=") for word in names):
        if is_table and name in known:
            raise ValueError(f"{name!r} is a view already: give the table another name in --views")
        if not is_table and name not in known:
            raise ValueError(f"unknown view {name!r} in --views; choose from {', '.join(known)}")
    if len({word.split("=", 1)[0] for word in names}) < len(names):
        raise ValueError(f"--views {' '.join(names)} names a view twice")


class Choice(NamedTuple):
    """The views of a run."""

    views: dict[str, View]
    remark: str = ""
    """A fact about the choice that the user has to know; empty: there is none."""


def choose(known: dict[str, View], names: Sequence[str], checkpoints: Sequence[str]) -> Choice:
    """Choose the views of these names; by default mel, egemaps and the speech models of the checkpoints.

    With neither names nor checkpoints the third view is wav2vec 2.0 base, as in the paper. Where that cannot
    be fetched, a run that did not ask for it goes on with two views, and the remark says so.

    Args:
        known: All views; see `catalogue`.
        names: Names of views; `my=vectors.parquet` is a view of the name `my`, made elsewhere.
        checkpoints: As for `catalogue`.

    Raises:
        ValueError: An unknown name, a name given twice, or a table that cannot be read.
    """
    from pcl_jax.views.speech_models.checkpoint import family_of
    from pcl_jax.views.table import TableView

    check_names(names)
    tables = [name.split("=", 1) for name in names if "=" in name]
    imported = {name: TableView(name, Path(table)) for name, table in tables}
    known = known | imported
    names = [name.split("=", 1)[0] for name in names]
    if names:
        return Choice({name: known[name] for name in names}, "\n".join(v.summary for v in imported.values()))
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
