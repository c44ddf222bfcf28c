"""An audio file is read right, or one line says what is wrong with it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax import audio
from pcl_jax.audio import AudioError
from pcl_jax.corpora.utterance import Utterance


def noise(samples: int = 16_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def utterance(path: Path, start_s: float = 0.0, end_s: float | None = None) -> Utterance:
    return Utterance(path.stem, path, 1, "a", None, 1.0, start_s, end_s)


def written(path: Path, samples: np.ndarray, rate: int = 16_000, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_reads_pcm_exactly(tmp_path):
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, 1000).astype(np.int16)
    waveform = audio.read(written(tmp_path / "a.wav", integers))
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, integers / 2**15)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_stereo_sine_of_any_rate_becomes_the_mono_sine_at_16_khz(tmp_path, rate):
    t = np.arange(rate) / rate
    stereo = np.stack([0.8 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 440 * t)], axis=1)
    waveform = audio.read(written(tmp_path / "a.wav", stereo, rate, subtype="FLOAT"))
    assert len(waveform) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    inner = slice(500, -500)  # the resampler's filter sees the borders as steps
    np.testing.assert_allclose(waveform[inner], expected[inner], atol=2e-5)


def test_resampling_does_not_alias(tmp_path):
    t = np.arange(48_000) / 48_000
    path = written(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 10_000 * t), 48_000, subtype="FLOAT")
    assert np.abs(audio.read(path)[500:-500]).max() < 1e-5  # 10 kHz would fold to 6 kHz


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3"])
def test_reads_compressed_formats(tmp_path, extension):
    t = np.arange(16_000) / 16_000
    sine = 0.5 * np.sin(2 * np.pi * 300 * t).astype(np.float32)
    waveform = audio.read(written(tmp_path / f"a.{extension}", sine))
    assert len(waveform) == pytest.approx(16_000, abs=1200)
    assert np.corrcoef(waveform[2000:14_000], sine[2000:14_000])[0, 1] > 0.99


def test_reads_a_segment(tmp_path):
    path = written(tmp_path / "a.wav", noise(), subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(utterance(path, 0.25, 0.5)), noise()[4000:8000])
    np.testing.assert_array_equal(audio.read(utterance(path, 0.25)), noise()[4000:])
    assert len(audio.read(utterance(path, 0.0, 1.009))) == 16_000  # rounded in a table


def test_overshoots_are_limited(tmp_path):
    assert np.abs(audio.read(written(tmp_path / "a.wav", 3 * noise(), subtype="FLOAT"))).max() == 1.0


def bad_files(folder: Path) -> dict[str, list[Utterance]]:
    """For each kind of fault, files that have it."""

    def made(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    broken = noise().copy()
    broken[500] = np.nan
    infinite = noise().copy()
    infinite[500] = np.inf
    ogg = written(folder / "whole.ogg", noise(48_000)).read_bytes()
    fine = written(folder / "fine.wav", noise())
    files = {
        "missing": [folder / "absent.wav"],
        "empty": [made("zero.wav", b""), written(folder / "headeronly.wav", noise(0))],
        "unreadable": [
            made("text.wav", b"These are not samples.\n" * 50),
            made("bits.flac", b"fLaC" + bytes(99)),
        ],
        "truncated": [
            cut(written(folder / "cut.wav", noise()), 0.5),
            cut(written(folder / "byte.wav", noise()), 1 - 1e-9),
            cut(written(folder / "cut.flac", noise()), 0.7),
            cut(written(folder / "cut.mp3", noise()), 0.7),
            cut(written(folder / "cut.ogg", noise(48_000)), 0.7),
            made("page.ogg", ogg[: ogg.rfind(b"OggS")]),
        ],
        "not_finite": [
            written(folder / "nan.wav", broken, subtype="FLOAT"),
            written(folder / "inf.wav", infinite, subtype="FLOAT"),
        ],
        "silent": [
            written(folder / "silent.wav", noise() * 0),
            written(folder / "dc.wav", noise() * 0 + 0.25),
        ],
        "scale": [written(folder / "integers.wav", noise() * 32768, subtype="FLOAT")],
        "too_short": [
            written(folder / "short.wav", noise(399)),
            written(folder / "s48.wav", noise(1190), 48_000),
        ],
    }
    bad = {kind: [utterance(path) for path in paths] for kind, paths in files.items()}
    return bad | {"segment": [utterance(fine, 0.5, 1.1), utterance(fine, 1.5), utterance(fine, 0.5, 0.5)]}


def test_every_fault_is_named_with_file_and_remedy(tmp_path):
    for kind, utterances in bad_files(tmp_path).items():
        for bad in utterances:
            with pytest.raises(AudioError) as caught:
                audio.read(bad)
            message = str(caught.value)
            assert caught.value.kind == kind, message
            assert message.startswith(f"{bad.path}: ")
            assert message.endswith("--on-bad-audio skip")
            assert "\n" not in message
            again = pickle.loads(pickle.dumps(caught.value))  # it crosses processes
            assert (str(again), again.kind) == (message, kind)


def test_400_samples_are_enough(tmp_path):
    assert len(audio.read(written(tmp_path / "a.wav", noise(400)))) == 400


def test_a_pipe_cannot_know_its_length_and_is_not_truncated(tmp_path):
    path = written(tmp_path / "a.wav", noise())
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(audio.read(path)) == 16_000


def test_check_lists_all_bad_files_and_no_good_one(tmp_path):
    bad = [one for some in bad_files(tmp_path).values() for one in some]
    good = utterance(tmp_path / "fine.wav")
    errors = audio.check([good, *bad, good], workers=2)
    assert [error.path for error in errors] == [one.path for one in bad]


def test_digest_follows_content_and_segment_and_nothing_else(tmp_path):
    path = written(tmp_path / "a.wav", noise())
    whole, copy, segment, other = (
        utterance(path),
        utterance(written(tmp_path / "b.wav", noise())),
        utterance(path, 0.0, 0.5),
        utterance(written(tmp_path / "c.wav", noise(seed=1))),
    )
    digests = audio.digests([whole, copy, segment, other])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert isinstance(audio.digests([utterance(tmp_path / "absent.wav")])[0], AudioError)


def test_clip_trims_and_pads_on_the_right():
    assert audio.clip(noise(100), 50 / 16_000, pad=True).tolist() == noise(100)[:50].tolist()
    padded = audio.clip(noise(100), 150 / 16_000, pad=True)
    assert padded.tolist() == [*noise(100).tolist(), *[0.0] * 50]
    assert len(audio.clip(noise(100), 150 / 16_000, pad=False)) == 100


@pytest.mark.corpora
@pytest.mark.parametrize("folder", ["emodb", "ravdess", "ravdess_original"])
def test_real_speech_has_no_fault(corpora_folder, folder):
    paths = sorted(p for p in (corpora_folder / folder).iterdir() if p.suffix in {".wav", ".flac"})
    assert len(paths) >= 10
    assert audio.check([utterance(path) for path in paths[::5]]) == []
