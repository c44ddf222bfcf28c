"""An audio file is read exactly, or one line says what is wrong with it."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from pcl_jax import audio
from pcl_jax.audio import AudioError


def noise(samples: int = 16_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


class Segment(NamedTuple):
    path: Path
    start_s: float = 0.0
    end_s: float | None = None

    def read(self) -> np.ndarray:
        return audio.read(self.path, start_s=self.start_s, end_s=self.end_s)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_reads_pcm_exactly(tmp_path):
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, 1000).astype(np.int16)
    waveform = audio.read(write(tmp_path / "a.wav", integers))
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, integers / 2**15)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_stereo_sine_of_any_rate_becomes_the_mono_sine_at_16_khz(tmp_path, rate):
    t = np.arange(rate) / rate
    stereo = np.stack([0.8 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 440 * t)], axis=1)
    waveform = audio.read(write(tmp_path / "a.wav", stereo, rate, subtype="FLOAT"))
    assert len(waveform) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    inner = slice(500, -500)  # the resampler's filter sees the borders as steps
    np.testing.assert_allclose(waveform[inner], expected[inner], atol=2e-5)


def test_resampling_does_not_alias(tmp_path):
    t = np.arange(48_000) / 48_000
    path = write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 10_000 * t), 48_000, subtype="FLOAT")
    assert np.abs(audio.read(path)[500:-500]).max() < 1e-5  # 10 kHz would fold to 6 kHz


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3"])
def test_reads_compressed_formats(tmp_path, extension):
    t = np.arange(16_000) / 16_000
    sine = 0.5 * np.sin(2 * np.pi * 300 * t).astype(np.float32)
    waveform = audio.read(write(tmp_path / f"a.{extension}", sine))
    assert len(waveform) == pytest.approx(16_000, abs=1200)
    assert np.corrcoef(waveform[2000:14_000], sine[2000:14_000])[0, 1] > 0.99


def test_reads_a_segment(tmp_path):
    path = write(tmp_path / "a.wav", noise(), subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(path, start_s=0.25, end_s=0.5), noise()[4000:8000])
    np.testing.assert_array_equal(audio.read(path, start_s=0.25), noise()[4000:])
    assert len(audio.read(path, end_s=1.009)) == 16_000  # rounded in a table


def test_overshoots_are_limited(tmp_path):
    assert np.abs(audio.read(write(tmp_path / "a.wav", 3 * noise(), subtype="FLOAT"))).max() == 1.0


def bad_files(folder: Path) -> dict[str, list[Segment]]:
    """Write files with faults; return them by the kind of fault."""

    def make(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    broken = noise().copy()
    broken[500] = np.nan
    infinite = noise().copy()
    infinite[500] = np.inf
    ogg = write(folder / "whole.ogg", noise(48_000)).read_bytes()
    fine = write(folder / "fine.wav", noise())
    files = {
        "missing": [folder / "absent.wav"],
        "empty": [make("zero.wav", b""), write(folder / "headeronly.wav", noise(0))],
        "unreadable": [
            make("text.wav", b"These are not samples.\n" * 50),
            make("bits.flac", b"fLaC" + bytes(99)),
        ],
        "truncated": [
            cut(write(folder / "cut.wav", noise()), 0.5),
            cut(write(folder / "byte.wav", noise()), 1 - 1e-9),
            cut(write(folder / "cut.flac", noise()), 0.7),
            cut(write(folder / "cut.mp3", noise()), 0.7),
            cut(write(folder / "cut.ogg", noise(48_000)), 0.7),
            make("page.ogg", ogg[: ogg.rfind(b"OggS")]),
        ],
        "not_finite": [
            write(folder / "nan.wav", broken, subtype="FLOAT"),
            write(folder / "inf.wav", infinite, subtype="FLOAT"),
        ],
        "silent": [
            write(folder / "silent.wav", noise() * 0),
            write(folder / "dc.wav", noise() * 0 + 0.25),
        ],
        "scale": [write(folder / "integers.wav", noise() * 32768, subtype="FLOAT")],
        "too_short": [
            write(folder / "short.wav", noise(399)),
            write(folder / "s48.wav", noise(1190), 48_000),
        ],
    }
    bad = {kind: [Segment(path) for path in paths] for kind, paths in files.items()}
    return bad | {"segment": [Segment(fine, 0.5, 1.1), Segment(fine, 1.5), Segment(fine, 0.5, 0.5)]}


def test_every_fault_is_named_with_file_and_remedy(tmp_path):
    for kind, segments in bad_files(tmp_path).items():
        for bad in segments:
            with pytest.raises(AudioError) as caught:
                bad.read()
            message = str(caught.value)
            assert caught.value.kind == kind, message
            assert message.startswith(f"{bad.path}: ")
            assert message.endswith("--on-bad-audio skip")
            assert "\n" not in message
            unpickled = pickle.loads(pickle.dumps(caught.value))  # it crosses processes
            assert (str(unpickled), unpickled.kind) == (message, kind)
    assert len(audio.read(tmp_path / "fine.wav")) == 16_000  # and the good file beside them is read


def test_400_samples_are_enough(tmp_path):
    assert len(audio.read(write(tmp_path / "a.wav", noise(400)))) == 400


def test_a_pipe_cannot_know_its_length_and_is_not_truncated(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(audio.read(path)) == 16_000


def test_a_digest_depends_on_content_and_segment_alone(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    copy = write(tmp_path / "b.wav", noise())
    different = write(tmp_path / "c.wav", noise(seed=1))
    absent = tmp_path / "absent.wav"
    files = audio.file_digests([path, copy, different, absent, path])
    assert files.keys() == {path, copy, different, absent}
    assert files[path] == files[copy] != files[different]
    assert isinstance(files[absent], AudioError)
    segments = [
        (path, 0.0, None),
        (copy, 0.0, None),
        (path, 0.0, 0.5),
        (path, 0.25, 0.5),
        (different, 0.0, None),
    ]
    digests = [audio.segment_digest(files[file], start_s, end_s) for file, start_s, end_s in segments]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


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
    for path in paths[::5]:
        audio.read(path)
