"""Which views a run has, and with which checkpoints."""

import json

import pytest
from flax import linen as nn

from pcl_jax.config import Clip, Encoders, Mel, SpeechModels
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views.catalogue import catalogue, choose
from pcl_jax.views.mel import MelView


def folder(tmp_path, family: str, name: str = "") -> str:
    """A checkpoint of that family, as far as its config goes."""
    place = tmp_path / (name or family)
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": family}))
    (place / "model.safetensors").write_bytes(b"")
    return str(place)


def test_every_view_has_its_own_name_and_the_parameters_given():
    views = catalogue(Mel(bands=80), speech=SpeechModels(clip=Clip(pad=False)), checkpoints=["untrained"])
    assert [(name, view.name) for name, view in views.items()] == [
        (name, name) for name in ("mel", "egemaps", "wav2vec2", "hubert", "whisper")
    ]
    assert views["mel"].describe()["bands"] == 80
    assert views["whisper"].describe()["clip"]["pad"] is False
    assert [view.normalised for view in views.values()] == [True, True, False, False, False]


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
