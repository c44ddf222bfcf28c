"""An audio file is read exactly, or one line says what is wrong with it."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

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


def variable_rate_mp3(path: Path, samples: np.ndarray, *, header: bool) -> Path:
    """Write an MP3 of variable bit rate; without its Xing header, as programs write it into a pipe."""
    write(path, samples, compression_level=0.3, bitrate_mode="VARIABLE")
    if not header:
        content = path.read_bytes()
        assert b"Xing" in content[:64]
        path.write_bytes(content[content.index(content[:2], 64) :])
    return path


@pytest.mark.parametrize("quiet_first", [True, False])
def test_an_mp3_without_a_count_in_its_header_is_counted_by_decoding(tmp_path, quiet_first):
    # The bit rate of the first frames is no measure of the others: the decoder's estimate is 2.5 times too
    # small for one order, and too large for the other.
    sine = 0.1 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000).astype(np.float32)
    halves = [sine, noise(32_000)] if quiet_first else [noise(32_000), sine]
    whole = audio.read(variable_rate_mp3(tmp_path / "a.mp3", np.concatenate(halves), header=True))
    bare = variable_rate_mp3(tmp_path / "b.mp3", np.concatenate(halves), header=False)
    estimate = soundfile.info(bare).frames
    assert abs(estimate - 48_000) > 6000
    waveform = audio.read(bare)
    # The header says too how many samples of the codec's delay to drop; without it they stay.
    assert 48_000 <= len(waveform) <= 48_000 + 3 * 576
    assert audio.duration_s(bare) == len(waveform) / 16_000
    delay = len(waveform) - len(whole)
    lags = [np.corrcoef(waveform[lag : lag + 46_000], whole[:46_000])[0, 1] for lag in range(delay + 1)]
    assert max(lags) > 0.99
    np.testing.assert_array_equal(audio.read(bare, start_s=1.5, end_s=2.0), waveform[24_000:32_000])
    with pytest.raises(AudioError, match=r"segment 2.0 s to 4.0 s lies outside the file's 3\.\d+ s"):
        audio.read(bare, start_s=2.0, end_s=4.0)


def test_tags_before_an_mp3_do_not_matter(tmp_path):
    for header in (True, False):
        bare = variable_rate_mp3(tmp_path / "a.mp3", noise(32_000), header=header)
        expected = audio.read(bare)
        tag = b"ID3\x04\x00\x00" + bytes([0, 6, 13, 32]) + bytes(6 * 2**14 + 13 * 2**7 + 32)
        (tmp_path / "b.mp3").write_bytes(tag + bare.read_bytes())
        np.testing.assert_array_equal(audio.read(tmp_path / "b.mp3"), expected)


FOLLOW = "wrong header: .* bytes follow"


@pytest.mark.parametrize(
    ("container", "between", "reason"),
    [
        ("MP3", b"", FOLLOW),
        ("MP3", b"TAG" + b"x" * 125, FOLLOW),  # the tag at the end of the first file
        ("MP3", b"APETAGEX" + bytes(4) + (100).to_bytes(4, "little") + b"x" * 116, FOLLOW),
        ("MP3", bytes(9000), "bytes behind its last frame"),
        ("OGG", b"", "holds several Ogg streams"),
        ("FLAC", b"", "holds several FLAC streams"),
        ("AU", b"", FOLLOW),
        ("CAF", b"", FOLLOW),
        ("W64", b"", FOLLOW),
        ("NIST", b"", FOLLOW),
    ],
)
def test_files_joined_to_one_are_not_read_in_part(tmp_path, container, between, reason):
    first, second = (write(tmp_path / f"{i}", noise(32_000, i), format=container) for i in (1, 2))
    # Streams of one serial number or of one length are told apart too.
    for other in (second, first):
        (tmp_path / "joined").write_bytes(first.read_bytes() + between + other.read_bytes())
        for function in (audio.read, audio.duration_s):
            with pytest.raises(AudioError, match=reason):
                function(tmp_path / "joined")


def test_an_mp3_that_changes_its_rate_is_not_read_in_part(tmp_path):
    first = variable_rate_mp3(tmp_path / "a.mp3", noise(32_000), header=False)
    second = write(tmp_path / "b.mp3", noise(32_000), 44_100)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes its sampling rate"):
        audio.read(first)


@pytest.mark.parametrize(("flags", "count"), [(15, 5), (15, 0), (1, 5)])
def test_an_mp3_whose_header_counts_too_few_frames_is_refused(tmp_path, flags, count):
    path = variable_rate_mp3(tmp_path / "a.mp3", noise(32_000), header=True)
    content = bytearray(path.read_bytes())
    place = content.index(b"Xing") + 4
    content[place : place + 8] = flags.to_bytes(4, "big") + count.to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=FOLLOW):
        audio.read(path)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_flac_whose_header_counts_too_few_samples_is_refused(tmp_path, level):
    path = write(tmp_path / "a.flac", noise(40_000), compression_level=level)
    content = bytearray(path.read_bytes())
    for total in (1, 20_000, 39_999):
        content[22:26] = total.to_bytes(4, "big")
        path.write_bytes(content)
        with pytest.raises(AudioError, match=f"counts {total} samples, the frames hold 40000"):
            audio.read(path)


def test_an_ogg_whose_last_page_ends_before_another_is_refused(tmp_path):
    path = write(tmp_path / "a.ogg", noise(160_000))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"OggS") + 6
    for granule in (100, -1):
        content[place : place + 8] = granule.to_bytes(8, "little", signed=True)
        path.write_bytes(content)
        with pytest.raises(AudioError, match=f"wrong header: its last page ends at sample {granule}"):
            audio.read(path)


@pytest.mark.parametrize("samples", [1000, 100_000])
@pytest.mark.parametrize("rate", [8000, 44_100])
@pytest.mark.parametrize(
    "options",
    [
        {"format": "FLAC", "subtype": "PCM_16"},
        {"format": "FLAC", "subtype": "PCM_24", "compression_level": 0.0},
        {"format": "OGG"},
        {"format": "MP3", "bitrate_mode": "CONSTANT"},
        {"format": "MP3"},
    ],
)
def test_whole_streams_are_never_refused(tmp_path, samples, rate, options):
    for channels in (1, 2):
        sound = noise(samples * channels).reshape(-1, channels)
        path = write(tmp_path / "a", sound, rate, **options)
        assert audio.duration_s(path) == pytest.approx(samples / rate, abs=0.001)


def test_a_stream_is_walked_through_once_and_again_when_it_changes(tmp_path):
    path = write(tmp_path / "a.flac", noise(40_000))
    whole = path.read_bytes()
    assert len(audio.read(path, start_s=0.5, end_s=1.0)) == 8000
    before = audio._stream_fault.cache_info().misses
    audio.read(path, start_s=1.0, end_s=2.0)
    assert audio._stream_fault.cache_info().misses == before
    path.write_bytes(whole + whole)
    with pytest.raises(AudioError, match="several FLAC streams"):
        audio.read(path)


def test_a_flac_of_unknown_length_is_counted_by_decoding(tmp_path):
    path = write(tmp_path / "a.flac", noise(40_000))
    expected = audio.read(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO: 0 stands for unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert soundfile.info(path).frames == 2**63 - 1
    np.testing.assert_array_equal(audio.read(path), expected)
    np.testing.assert_array_equal(audio.read(path, start_s=1.0, end_s=2.0), expected[16_000:32_000])
    assert audio.duration_s(path) == 2.5


CONTAINERS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "NIST", "VOC", "AVR", "WVE"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("endian", ["FILE", "BIG"])
def test_half_a_file_of_any_container_is_truncated_and_all_of_it_is_not(tmp_path, container, endian):
    rate = 8000 if container == "WVE" else 16_000
    try:
        path = write(tmp_path / "a.wav", noise(8000), rate, format=container, endian=endian)
    except (soundfile.LibsndfileError, ValueError):
        assert endian == "BIG"  # a container of one byte order
        return
    assert audio.duration_s(path) == 8000 / rate
    assert len(audio.read(path)) == 8000 * 16_000 // rate
    for share in (0.9999, 0.6):
        cut(path, share)
        for function in (audio.read, audio.duration_s):
            with pytest.raises(AudioError) as caught:
                function(path)
            assert caught.value.kind == "truncated"


def test_formats_that_cannot_be_checked_are_refused_by_name(tmp_path):
    for container in soundfile.available_formats().keys() - {*CONTAINERS, "FLAC", "OGG", "MP3", "RAW", "SD2"}:
        path = write(tmp_path / "a.wav", noise(8000), format=container)
        with pytest.raises(AudioError, match=f"is a {container} file: .*; convert it to WAV"):
            audio.read(path)


@pytest.mark.parametrize(
    ("container", "offset", "length"),
    [
        ("WAV", 40, b"\xff\xff\xff\xff"),
        ("WAV", 40, b"\x00\xf0\xff\x7f"),
        ("AU", 8, b"\xff\xff\xff\xff"),
    ],
)
def test_a_pipe_cannot_know_its_length_and_is_not_truncated(tmp_path, container, offset, length):
    path = write(tmp_path / "a.wav", noise(), format=container)
    content = bytearray(path.read_bytes())
    content[offset : offset + len(length)] = length
    path.write_bytes(content)
    assert len(audio.read(path)) == 16_000
    assert audio.duration_s(path) == 1.0


@pytest.mark.parametrize(
    ("container", "place", "order"),
    [
        ("WAV", b"data", "little"),
        ("AIFF", b"SSND", "big"),
        ("AU", b".snd", "big"),
        ("RF64", b"ds64", "little"),
    ],
)
def test_half_of_the_samples_is_not_all_whatever_they_look_like(tmp_path, container, place, order):
    """The first sample behind the end by the header may look like the name of a chunk."""
    sound = noise()
    sound[8000:8004] = np.frombuffer(b"LISTbext", "<i2") / 2**15
    path = write(tmp_path / "a", sound, format=container)
    content = bytearray(path.read_bytes())
    start = content.index(place) + {"AU": 8, "RF64": 16}.get(container, 4)
    content[start : start + 4] = (16_000 + 8 * (container == "AIFF")).to_bytes(4, order)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="16000 bytes follow behind the samples"):
        audio.read(path)


def test_samples_that_the_header_does_not_count_are_not_lost_silently(tmp_path):
    path = write(tmp_path / "a.wav", noise())
    content = bytearray(path.read_bytes())
    for length, reason in ((8000, "24000 bytes follow behind the samples"), (0, "it counts no samples")):
        content[40:44] = length.to_bytes(4, "little")  # as a recorder leaves it that was switched off
        path.write_bytes(content)
        with pytest.raises(AudioError, match=f"wrong header: {reason}"):
            audio.read(path)
    # Chunks and tags behind the samples are no samples.
    write(path, noise())
    chunk = b"LIST" + (6000).to_bytes(4, "little") + bytes(6000)
    path.write_bytes(path.read_bytes() + chunk + b"TAG" + b"\xe4" * 125)
    assert len(audio.read(path)) == 16_000


@pytest.mark.parametrize(
    "error",
    [MemoryError(), ValueError("array is too big"), RuntimeError("x\ny"), OverflowError(), TypeError()],
)
def test_any_exception_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    path = write(tmp_path / "a.wav", noise())

    def fail(*arguments, **options):
        raise error

    for function in ("read", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(soundfile.SoundFile, function, fail)
            with pytest.raises(AudioError) as caught:
                audio.read(path)
        assert str(caught.value).startswith(f"{path}: is not readable as audio (")
        assert "\n" not in str(caught.value)


def test_a_pointer_of_git_lfs_says_how_to_fetch_the_audio(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 72862\n")
    with pytest.raises(AudioError, match=r"not fetched; fetch the audio with `git lfs pull`"):
        audio.read(path)


def test_odd_paths_are_named_in_one_line(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    names = ["folder.wav", "line\nbreak.wav", "nul\0.wav", "long" * 100 + ".wav", "Gl\udcfcck.wav"]
    for name in names:
        with pytest.raises(AudioError) as caught:
            audio.read(tmp_path / name)
        assert caught.value.kind == "missing"
        assert str(caught.value).isprintable()
    assert all(
        isinstance(digest, AudioError)
        for digest in audio.file_digests(map(tmp_path.joinpath, names)).values()
    )


SEEDS = {container: container for container in [*CONTAINERS[:-1], "FLAC", "OGG", "MP3"]}


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    container=st.sampled_from(sorted(SEEDS)),
    cut_at=st.floats(0.0, 1.0) | st.none(),
    patches=st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=8)), max_size=3),
)
def test_a_damaged_file_is_read_or_named(tmp_path_factory, container, cut_at, patches):
    """Whatever is wrong with a file: a waveform of the header's length, or an `AudioError` of one line."""
    path = tmp_path_factory.getbasetemp() / f"fuzz.{container}"
    whole = path.with_suffix(f".{container}.whole")
    if not whole.exists():
        write(whole, noise(8000), format=container)
    content = bytearray(whole.read_bytes())
    for offset, values in patches:
        content[offset : offset + len(values)] = values
    if cut_at is not None:
        del content[int(cut_at * len(content)) :]
    path.write_bytes(content)
    result: np.ndarray | AudioError
    try:
        result = audio.read(path)
    except AudioError as error:
        result = error
    if isinstance(result, AudioError):
        assert str(result).startswith(f"{path}: ")
        assert str(result).isprintable()
    else:
        waveform = result
        assert len(waveform) >= audio.SHORTEST
        assert np.isfinite(waveform).all()
        assert np.abs(waveform).max() <= 1
        if not patches:
            assert len(waveform) == 8000 or container in ("OGG", "MP3")


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
