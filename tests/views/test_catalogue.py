"""Which views a run has, and with which checkpoints."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from flax import linen as nn

from pcl_jax.config import Encoders
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views import catalogue as catalogue_module
from pcl_jax.views.catalogue import ViewSettings, catalogue, choose
from pcl_jax.views.clip import Clip
from pcl_jax.views.mel import Mel, MelView
from pcl_jax.views.speech_models.view import SpeechModels


def folder(tmp_path, family: str, name: str = "") -> str:
    """A checkpoint of that family, as far as its config goes."""
    place = tmp_path / (name or family)
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": family}))
    (place / "model.safetensors").write_bytes(b"")
    return str(place)


def test_every_view_has_its_own_name_and_the_parameters_given():
    views = catalogue(
        ViewSettings(mel=Mel(bands=80), speech=SpeechModels(clip=Clip(pad=False))), checkpoints=["untrained"]
    )
    assert [(name, view.name) for name, view in views.items()] == [
        (name, name) for name in ("mel", "egemaps", "wav2vec2", "hubert", "whisper")
    ]
    assert views["mel"].describe()["bands"] == 80
    assert views["whisper"].describe()["clip"]["pad"] is False
    assert [view.normalised for view in views.values()] == [True, True, False, False, False]


NEW_VIEW = """
from dataclasses import dataclass, field
from pcl_jax.views.view import View

@dataclass(frozen=True)
class Rate:
    frame: int = 160

@dataclass(frozen=True)
class RateView(View):
    config: Rate = field(default_factory=Rate)
    name = "rate"
    kind = "vector"
"""


def test_a_view_with_a_parameter_is_one_file_and_one_line_in_the_catalogue(tmp_path, monkeypatch):
    line = '    "egemaps": EgemapsView,\n'
    source = Path(catalogue_module.__file__).read_text()
    assert source.count(line) == 1
    extended = source.replace(line, f'{line}    "rate": __import__("rate").RateView,\n')
    (tmp_path / "rate.py").write_text(NEW_VIEW)
    (tmp_path / "extended_catalogue.py").write_text(extended)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("extended_catalogue")
    settings = tyro.cli(module.ViewSettings, args=["--rate.frame", "80", "--mel.bands", "40"])
    views = module.catalogue(settings, ["untrained"])
    assert views["rate"].config.frame == 80
    assert views["mel"].config.bands == 40
    assert list(views) == ["mel", "egemaps", "rate", "wav2vec2", "hubert", "whisper"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--mel.hop", "0"),
        ("--mel.window", "-400"),
        ("--mel.bands", "0"),
        ("--mel.bands", "100000"),
        ("--mel.f-min-hz", "-1"),
        ("--mel.f-min-hz", "7800"),
        ("--mel.f-max-hz", "8001"),
        ("--mel.f-max-hz", "nan"),
        ("--mel.floor", "0"),
        ("--mel.clip.duration-s", "0.01"),
        ("--mel.clip.duration-s", "inf"),
        ("--speech.clip.duration-s", "nan"),
        ("--speech.batch-s", "0"),
        ("--egemaps.peak", "0"),
        ("--egemaps.peak", "1"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_with_its_name(flag, value, capsys):
    with pytest.raises(SystemExit) as caught:
        tyro.cli(ViewSettings, args=[flag, value])
    assert caught.value.code == 2
    assert flag.rpartition(".")[2].replace("-", "_") in capsys.readouterr().err


def test_the_catalogue_loads_no_heavy_library():
    code = "import sys, pcl_jax.views.catalogue; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"jax", "flax", "librosa", "opensmile", "transformers", "pyarrow"}
    assert not heavy & set(loaded.split())


def test_the_kind_of_every_view_has_an_encoder():
    for view in catalogue(checkpoints=["untrained"]).values():
        assert isinstance(ENCODERS[view.kind](view, Encoders()), nn.Module)


def test_flattening_needs_a_view_that_cuts_utterances_to_a_full_clip():
    class Endless(MelView):
        full_frames = None

    assert ENCODERS["frames"](Endless(), Encoders()).pool == "mean"
    with pytest.raises(ValueError, match="the view mel has no full clip to flatten"):
        ENCODERS["frames"](Endless(), Encoders(spectral_pool="flatten"))


def test_each_checkpoint_serves_its_own_family_and_untrained_the_rest(tmp_path):
    whisper = folder(tmp_path, "whisper")
    assert catalogue(checkpoints=[whisper])["whisper"].title == "whisper (whisper)"
    assert catalogue(checkpoints=[whisper])["wav2vec2"].title == "wav2vec2 (facebook/wav2vec2-base)"
    views = catalogue(checkpoints=["untrained", whisper])
    assert views["whisper"].title == "whisper (whisper)"
    assert views["wav2vec2"].title == "wav2vec2 (untrained stand-in)"
    with pytest.raises(ValueError, match=r"are both whisper models: give one"):
        catalogue(checkpoints=[whisper, folder(tmp_path, "whisper", "other")])
    with pytest.raises(FileNotFoundError, match="nowhere/at/all"):
        catalogue(checkpoints=["nowhere/at/all"])


def test_by_default_the_speech_models_join_mel_and_egemaps(tmp_path):
    for checkpoints, families in (
        (["untrained"], ["wav2vec2"]),
        ([folder(tmp_path, "whisper")], ["whisper"]),
        ([folder(tmp_path, "hubert"), "untrained"], ["hubert", "wav2vec2"]),
    ):
        choice = choose(catalogue(checkpoints=checkpoints), (), checkpoints)
        assert list(choice.views) == ["mel", "egemaps", *families]
        assert choice.remark == ""


def test_named_views_are_what_is_named(tmp_path):
    known = catalogue(checkpoints=["untrained"])
    assert list(choose(known, ("egemaps", "hubert"), ["untrained"]).views) == ["egemaps", "hubert"]
    with pytest.raises(ValueError, match="unknown view 'colour' in --views; choose from mel, egemaps"):
        choose(known, ("mel", "colour"), [])
    with pytest.raises(ValueError, match="names a view twice"):
        choose(known, ("mel", "mel"), [])


def test_without_wav2vec2_a_run_that_did_not_ask_for_it_goes_on_and_says_so(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    known = catalogue()
    choice = choose(known, (), ())
    assert list(choice.views) == ["mel", "egemaps"]
    for word in ("facebook/wav2vec2-base", "hf download", "two views", "--speech-model"):
        assert word in choice.remark
    assert list(choose(known, ("mel", "wav2vec2"), ()).views) == [
        "mel",
        "wav2vec2",
    ]  # asked for
