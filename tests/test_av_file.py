"""Audio of phones and browsers: m4a, mp4, webm, aac through PyAV."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pcl_jax import audio
from pcl_jax.audio import AudioError

av = pytest.importorskip("av", reason="PyAV (extra av) is not installed")

CODECS = {"m4a": "aac", "mp4": "aac", "aac": "aac", "webm": "libopus"}


def encode(
    path: Path,
    wave: np.ndarray,
    rate: int = 48_000,
    layout: str = "mono",
    title: str = "title",
    options: dict[str, str] | None = None,
) -> Path:
    """Write float32 `[channels, samples]`."""
    codec = CODECS.get(path.suffix[1:], "aac")
    size = 960 if codec == "libopus" else 1024
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        container.metadata["title"] = title
        for start in range(0, wave.shape[1], size):
            block = np.ascontiguousarray(wave[:, start : start + size], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sweep(seconds: float = 2.0, rate: int = 48_000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * (200 + 200 * time) * time)[None].astype(np.float32)


@pytest.mark.parametrize("suffix", CODECS)
def test_what_is_read_is_what_was_recorded(tmp_path, suffix):
    found = audio.read(encode(tmp_path / f"x.{suffix}", sweep()))
    assert abs(len(found) - 32_000) < 2_500  # padding of the encoder
    assert audio.duration_s(tmp_path / f"x.{suffix}") == pytest.approx(len(found) / 16_000, abs=1e-3)
    reference = sweep(rate=16_000)[0]
    size = min(len(found), len(reference))
    spectra = [np.abs(np.fft.rfft(x[:size] * np.hanning(size))) for x in (found, reference)]
    assert np.corrcoef(*spectra)[0, 1] > 0.95


def test_a_title_in_another_encoding_is_no_fault(tmp_path):
    path = encode(tmp_path / "x.m4a", sweep(), title="Gespraech in Muenchen")
    content = path.read_bytes()
    assert b"Muenchen" in content
    path.write_bytes(content.replace(b"Muenchen", "Mün\xffchen".encode("latin-1")))
    assert len(audio.read(path)) > 30_000


def test_channels_are_averaged(tmp_path):
    left = sweep()
    both = audio.read(encode(tmp_path / "both.m4a", np.concatenate([left, left]), layout="stereo"))
    one = audio.read(encode(tmp_path / "one.m4a", np.concatenate([left, 0 * left]), layout="stereo"))
    assert one.std() == pytest.approx(both.std() / 2, rel=0.05)


def test_a_truncated_file_is_refused(tmp_path):
    path = encode(tmp_path / "x.m4a", sweep(10))
    content = path.read_bytes()
    (tmp_path / "head.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError) as error:
        audio.read(tmp_path / "head.m4a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("suffix", "options"), [("webm", {}), ("webm", {"live": "1"}), ("mka", {})])
def test_half_a_recording_of_a_browser_is_refused(tmp_path, suffix, options):
    """Half of a Matroska file decodes without an error, whether its length is known or not."""
    path = tmp_path / f"x.{suffix}"
    encode(path, sweep(), options=options)
    content = path.read_bytes()
    assert len(audio.read(path)) > 30_000
    path.write_bytes(content[: len(content) // 2])
    for function in (audio.read, audio.duration_s):
        with pytest.raises(AudioError, match="truncated: its last part ends at byte"):
            function(path)


def test_two_mp4_files_joined_to_one_are_not_read_in_part(tmp_path):
    path = encode(tmp_path / "x.m4a", sweep())
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(AudioError, match="holds several MP4 files"):
        audio.read(path)


def test_any_bytes_behind_a_signature_are_one_line(tmp_path):
    rng = np.random.default_rng(0)
    for number, head in enumerate((b"\0\0\0\x20ftypM4A ", b"\x1a\x45\xdf\xa3", b"\xff\xf1\x50\x80") * 5):
        path = tmp_path / f"{number}.m4a"
        path.write_bytes(head + rng.bytes(int(rng.integers(1, 3000))))
        with pytest.raises(AudioError) as error:
            audio.read(path)
        assert len(str(error.value).splitlines()) == 1


def test_without_pyav_the_error_names_the_extra(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.m4a", sweep())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r'extra "av"'):
        audio.read(path)


def test_an_mp4_without_sound_is_refused(tmp_path):
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio stream"):
        audio.read(path)
