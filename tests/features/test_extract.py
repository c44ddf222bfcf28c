"""Extraction computes what is missing, all of it, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcl_jax import audio
from pcl_jax.audio import AudioErrors
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.features import extract, store, workers
from pcl_jax.features.extract import extract as run
from pcl_jax.features.store import StoreError
from pcl_jax.features.workers import WorkerError
from pcl_jax.views.clip import Clip
from pcl_jax.views.egemaps import Egemaps, EgemapsView
from pcl_jax.views.mel import Mel, MelView
from pcl_jax.views.view import Kind, View


@dataclass(frozen=True)
class Ends(View):
    """A cheap view: first and last samples as frames."""

    count: int = 2
    name: str = "ends"
    kind: Kind = "frames"

    def describe(self):
        return {"dtype": "float32", "count": self.count}

    def size(self, duration_s: float) -> int:
        return 8 * self.count

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.stack([w[: self.count], w[-self.count :]]) for w in waveforms]


@dataclass(frozen=True)
class OnDevice(Ends):
    """A view that notes the sizes of its batches and the process that computes it."""

    name: str = "device"
    device_batch: int = 16
    longest_s: float | None = None

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        BATCHES.append((os.getpid(), len(waveforms)))
        return super().features(waveforms)


CLOCK = [0.0]


@dataclass(frozen=True)
class Slow(Ends):
    """A view that takes two seconds for each utterance, by our clock, and more for the first."""

    name: str = "slow"
    device_batch: int | None = None

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        CLOCK[0] += 2 * len(waveforms) + (30 if CLOCK[0] == 0 else 0)
        return super().features(waveforms)


VIEWS = (MelView(), EgemapsView())
BATCHES: list[tuple[int, int]] = []


@dataclass(frozen=True)
class Dies(Ends):
    """A view whose process is killed, as if for want of memory."""

    name: str = "dies"

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


@dataclass(frozen=True)
class Fails(Ends):
    """A view that fails on every utterance."""

    name: str = "fails"

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("no such thing")


def sound(path: Path, seed: int, samples: int = 4000) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples), 16_000)


def corpus_of(folder: Path, count: int) -> Corpus:
    paths = [folder / f"{i:03d}.wav" for i in range(count)]
    for i, path in enumerate(paths):
        if not path.exists():
            sound(path, i)
    return Corpus("c", tuple(Utterance(p.stem, p, 1, "x", None, 0.25) for p in paths), {})


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_stores_what_the_views_give(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 3)
    told = []
    result = run(corpus, VIEWS, tmp_path / "f", progress=lambda *what: told.append(what))
    for view in VIEWS:
        name = view.name
        assert len(result.stores[name]) == 3
        for utterance in corpus.utterances:
            (expected,) = view.features([audio.read(utterance.path)])
            np.testing.assert_array_equal(result.stores[name][utterance.id], expected)
    assert result.computed == {"mel": 3, "egemaps": 3}
    assert told == [(i, 3, "extracting mel, egemaps") for i in (1, 2, 3)]
    assert result.stores["mel"].metadata["describe"]["bands"] == 64


def test_twice_changes_nothing(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 3)
    run(corpus, [Ends()], tmp_path / "f")
    before = snapshot(tmp_path / "f")
    result = run(corpus, [Ends()], tmp_path / "f")
    assert snapshot(tmp_path / "f") == before
    assert (result.computed, result.present) == ({"ends": 0}, {"ends": 3})


def test_a_wider_corpus_and_another_view_add_only_what_is_missing(tmp_path):
    run(corpus_of(tmp_path / "audio", 2), [Ends()], tmp_path / "f")
    result = run(corpus_of(tmp_path / "audio", 5), [Ends(), Ends(name="other")], tmp_path / "f")
    assert result.computed == {"ends": 3, "other": 5}
    assert run(corpus_of(tmp_path / "audio", 2), [Ends()], tmp_path / "f").computed == {"ends": 0}


def test_another_parameter_is_another_folder(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 2)
    run(corpus, [Ends()], tmp_path / "f")
    assert run(corpus, [Ends(count=3)], tmp_path / "f").computed == {"ends": 2}
    others = (MelView(Mel(hop=80)), EgemapsView(Egemaps(peak=0.5)), MelView(Mel()), EgemapsView(Egemaps()))
    places = {store.place(tmp_path, "c", view.name, view.describe()) for view in (*VIEWS, *others)}
    assert len(places) == 4


def test_changed_audio_is_extracted_again_and_only_it(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 3)
    run(corpus, [Ends()], tmp_path / "f")
    sound(corpus.utterances[1].path, seed=99)
    result = run(corpus, [Ends()], tmp_path / "f")
    assert result.computed == {"ends": 1}
    np.testing.assert_array_equal(
        result.stores["ends"]["001"], Ends().features([audio.read(corpus.utterances[1].path)])[0]
    )
    moved = replace(corpus, utterances=(replace(corpus.utterances[0], start_s=0.1), *corpus.utterances[1:]))
    assert run(moved, [Ends()], tmp_path / "f").computed == {"ends": 1}


def test_all_bad_audio_is_listed_at_once_and_good_audio_kept(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 4)
    corpus.utterances[0].path.unlink()
    corpus.utterances[2].path.write_text("not audio")
    with pytest.raises(AudioErrors, match="2 audio files cannot be used") as caught:
        run(corpus, [Ends()], tmp_path / "f")
    assert len(str(caught.value).splitlines()) == 3
    assert [error.path for error in caught.value.errors] == [u.path for u in corpus.utterances[::2]]
    result = run(corpus, [Ends()], tmp_path / "f", on_bad_audio="skip")
    assert {id: error.kind for id, error in result.skipped.items()} == {"000": "missing", "002": "unreadable"}
    assert result.stores["ends"].ids == ("001", "003")
    assert result.computed == {"ends": 0}


def test_by_default_there_is_a_worker_for_each_cpu_that_this_process_may_use(tmp_path, monkeypatch):
    asked = []

    def compute_all(tasks, processes):
        asked.append(processes)
        yield from map(workers.compute, tasks)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    monkeypatch.setattr(extract, "compute_all", compute_all)
    run(corpus_of(tmp_path / "audio", 1), [Ends()], tmp_path / "f")
    assert asked == [3]


def test_a_second_extraction_at_once_is_refused(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 2)
    run(corpus, [Ends()], tmp_path / "f")
    place = store.place(tmp_path / "f", "c", "ends", Ends().describe())
    with store.Writer(place, "ends", Ends().describe()):
        assert len(run(corpus, [Ends()], tmp_path / "f").stores["ends"]) == 2  # nothing to write
        with pytest.raises(store.StoreError, match="another process is writing"):
            run(corpus_of(tmp_path / "audio", 3), [Ends()], tmp_path / "f")


def test_no_utterances(tmp_path):
    result = run(Corpus("c", (), {}), [Ends()], tmp_path / "f")
    assert len(result.stores["ends"]) == 0


def test_device_views_run_here_in_batches(tmp_path):
    BATCHES.clear()
    corpus = corpus_of(tmp_path / "audio", 20)
    result = run(corpus, [Ends(), OnDevice()], tmp_path / "f")
    assert [size for _, size in BATCHES] == [16, 4]
    assert {process for process, _ in BATCHES} == {os.getpid()}
    assert result.computed == {"ends": 20, "device": 20}
    for utterance in corpus.utterances:
        np.testing.assert_array_equal(
            result.stores["device"][utterance.id], result.stores["ends"][utterance.id]
        )


def test_a_device_view_gets_no_more_than_it_reads(tmp_path):
    """An hour of audio is trimmed before it waits with fifteen others."""
    corpus = corpus_of(tmp_path / "audio", 2)
    task = workers.Task(corpus.utterances[0], (), waveform_s=0.1)
    whole = audio.read(corpus.utterances[0].path)
    handed = workers.compute(task).waveform
    np.testing.assert_array_equal(handed, whole[:1600])
    assert handed.base is None  # does not hold on to the rest
    for longest_s, samples in ((0.125, 2000), (9.0, 4000), (None, 4000)):
        seen = []

        class Measures(OnDevice):
            def features(self, waveforms, seen=seen):
                seen.extend(len(w) for w in waveforms)
                return super().features(waveforms)

        run(corpus, [Measures(longest_s=longest_s)], tmp_path / f"{longest_s}")
        assert seen == [samples, samples]


def test_parts_are_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "PART_ROWS", 2)
    corpus = corpus_of(tmp_path / "audio", 5)
    seen = []

    def stop(done, total, label):
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(corpus, [Ends()], tmp_path / "f", progress=stop)
    result = run(corpus, [Ends()], tmp_path / "f")
    assert (result.present, result.computed) == ({"ends": 3}, {"ends": 2})


def test_a_view_that_fails_names_itself_and_the_file(tmp_path):
    with pytest.raises(
        WorkerError, match=r"view 'fails' fails on .*000\.wav: RuntimeError\('no such thing'\)"
    ):
        run(corpus_of(tmp_path / "audio", 1), [Fails()], tmp_path / "f")


@dataclass(frozen=True)
class FailsOnLong(OnDevice):
    """A view that fails on one utterance, alone or in a batch."""

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        if any(len(w) == 4001 for w in waveforms):
            raise OverflowError("too long")
        return super().features(waveforms)


def test_a_view_that_fails_on_one_of_a_batch_names_the_file(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 5)
    sound(corpus.utterances[2].path, 2, 4001)
    with pytest.raises(WorkerError, match=r"view 'device' fails on .*002\.wav: OverflowError\('too long'\)"):
        run(corpus, [FailsOnLong()], tmp_path / "f")


def test_a_view_that_gives_too_few_is_an_error(tmp_path):
    class Forgets(Ends):
        def features(self, waveforms):
            return []

    with pytest.raises(WorkerError, match=r"fails on .*000\.wav: .*1 waveforms give 0 features"):
        run(corpus_of(tmp_path / "audio", 1), [Forgets()], tmp_path / "f")


@pytest.mark.parametrize("error", [ValueError("array is too big"), MemoryError(), RuntimeError("decoder")])
def test_whatever_a_decoder_raises_names_the_file_and_can_be_skipped(tmp_path, monkeypatch, error):
    corpus = corpus_of(tmp_path / "audio", 3)
    read = audio.read

    def broken(path, **segment):
        if path.stem == "001":
            raise error
        return read(path, **segment)

    monkeypatch.setattr(audio, "read", broken)
    with pytest.raises(AudioErrors, match=r"001\.wav: cannot be decoded"):
        run(corpus, [Ends()], tmp_path / "f")
    result = run(corpus, [Ends()], tmp_path / "f", on_bad_audio="skip")
    assert {id: error.kind for id, error in result.skipped.items()} == {"001": "unreadable"}
    assert result.stores["ends"].ids == ("000", "002")


@dataclass(frozen=True)
class DiesAtOne(Ends):
    """A view whose process is killed by one file, as by a decoder's fault."""

    def features(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        if any(len(w) == 4001 for w in waveforms):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().features(waveforms)


@pytest.mark.slow
def test_a_process_that_dies_names_the_file_it_was_at(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "FEW", 1)
    corpus = corpus_of(tmp_path / "audio", 30)
    sound(corpus.utterances[17].path, 17, 4001)
    with pytest.raises(WorkerError, match=r"a worker process died at .*017\.wav, and dies there again"):
        run(corpus, [DiesAtOne()], tmp_path / "f", workers=2)


@pytest.mark.slow
def test_processes_give_the_same_and_a_killed_one_is_an_error_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "FEW", 1)
    corpus = corpus_of(tmp_path / "audio", 40)
    corpus.utterances[7].path.write_text("not audio")
    environment = dict(os.environ)
    one = run(corpus, [Ends(), OnDevice()], tmp_path / "1", workers=1, on_bad_audio="skip")
    two = run(corpus, [Ends(), OnDevice()], tmp_path / "2", workers=2, on_bad_audio="skip")
    assert dict(os.environ) == environment
    assert one.skipped.keys() == two.skipped.keys() == {"007"}
    for name in ("ends", "device"):
        assert one.stores[name].ids == two.stores[name].ids
        for id in one.stores[name]:
            np.testing.assert_array_equal(one.stores[name][id], two.stores[name][id])
    with pytest.raises(WorkerError, match="a worker process died"):
        run(corpus, [Dies()], tmp_path / "3", workers=2, on_bad_audio="skip")


EXTRACT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_extract import corpus_of, Ends
    from pcl_jax.features import extract
    extract.PART_ROWS = 3
    def progress(done, total, label):
        print(done, flush=True)
    corpus = corpus_of(Path(sys.argv[2]), 30)
    extract.extract(corpus, [Ends()], Path(sys.argv[3]), workers=1, progress=progress)
"""


def same_as_never_interrupted(corpus: Corpus, resumed: extract.Extraction, fresh: Path) -> None:
    whole = run(corpus, [Ends()], fresh)
    assert set(resumed.stores["ends"].ids) == set(whole.stores["ends"].ids)
    assert resumed.stores["ends"].verify() == []
    for id in whole.stores["ends"]:
        np.testing.assert_array_equal(resumed.stores["ends"][id], whole.stores["ends"][id])
        assert resumed.stores["ends"].audio_digest(id) == whole.stores["ends"].audio_digest(id)


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_never_killed(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 30)
    command = [sys.executable, "-c", textwrap.dedent(EXTRACT), str(Path(__file__).parent), tmp_path / "audio"]
    for after in (1, 4, 6):
        process = subprocess.Popen([*command, tmp_path / "killed"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
    resumed = run(corpus, [Ends()], tmp_path / "killed")
    assert resumed.present["ends"] >= 6
    same_as_never_interrupted(corpus, resumed, tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_twenty_random_instants(tmp_path):
    """Anywhere: while it starts, reads, computes, writes, renames."""
    corpus = corpus_of(tmp_path / "audio", 30)
    slow = textwrap.dedent(EXTRACT).replace("print(done, flush=True)", "import time; time.sleep(0.03)")
    command = [sys.executable, "-c", slow, str(Path(__file__).parent), tmp_path / "audio"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = subprocess.Popen([*command, tmp_path / "killed"], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 3.0))
        process.kill()
        process.wait()
    same_as_never_interrupted(corpus, run(corpus, [Ends()], tmp_path / "killed"), tmp_path / "whole")


def test_shares_are_disjoint_and_together_the_whole(tmp_path):
    corpus = corpus_of(tmp_path / "audio", 7)
    counts = [run(corpus, [Ends()], tmp_path / "f", shard=(i, 3)).computed["ends"] for i in (2, 3, 1)]
    assert counts == [2, 2, 3]
    together = run(corpus, [Ends()], tmp_path / "f")
    assert together.computed == {"ends": 0}
    same_as_never_interrupted(corpus, together, tmp_path / "whole")
    for shard in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"share {shard[0]} of 3: give 1 to 3"):
            run(corpus, [Ends()], tmp_path / "f", shard=shard)


def test_the_plan_is_announced_first_and_refused_where_the_disk_is_full(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path / "audio", 3)
    plans = []
    run(corpus, [Ends(), Ends(name="other")], tmp_path / "f", announce=plans.append)
    run(corpus, [Ends(), Ends(name="other")], tmp_path / "f", announce=plans.append)  # nothing to do
    (plan,) = plans
    assert (plan.utterances, plan.audio_s, plan.bytes) == (3, 0.75, 2 * 3 * 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**24 + 2**10))
    run(corpus, [Ends()], tmp_path / "small")
    with pytest.raises(StoreError, match=r"3 utterances will take about 5 MiB, and the disk has 16 MiB free"):
        run(corpus, [Ends(count=200_000)], tmp_path / "f")
    assert not list(tmp_path.glob("f/*/*count*"))


@pytest.mark.parametrize(("device_batch", "seconds"), [(None, 9 * 1.5 / 3), (4, 9 * 2)])
def test_the_time_is_estimated_from_a_few_utterances(tmp_path, monkeypatch, device_batch, seconds):
    """Nine utterances, two seconds each: in three processes (one of the four sampled has no audio), or on
    the one device."""
    monkeypatch.setattr(extract, "SAMPLED_FROM_S", 2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: CLOCK[0])
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "003.wav").write_bytes(b"this is no audio")
    plans = []
    for count in (7, 9):
        corpus = corpus_of(tmp_path / "audio", count)
        view = Slow(count=count, device_batch=device_batch)
        run(corpus, [view], tmp_path / "f", workers=3, on_bad_audio="skip", announce=plans.append)
    assert plans[0].seconds is None  # 7 * 0.25 s of audio
    assert plans[1].seconds == pytest.approx(seconds)


@pytest.mark.parametrize("view", [MelView(), MelView(Mel(clip=Clip(duration_s=0.1))), EgemapsView()])
def test_the_estimate_is_what_is_stored(view, tmp_path):
    sound(tmp_path / "a" / "a.wav", 0, 5000)
    corpus = Corpus("c", (Utterance("a", tmp_path / "a" / "a.wav", 1, "x", None, 5000 / 16000),), {})
    values = run(corpus, [view], tmp_path / "f").stores[view.name]["a"]
    assert abs(view.size(5000 / 16000) - values.nbytes) <= values[:1].nbytes


def test_one_long_utterance_among_short_ones_costs_the_others_nothing(tmp_path):
    lengths = [4_000, 16_000 * 20, 2_000, 8_000]
    folder = tmp_path / "audio"
    for i, samples in enumerate(lengths):
        sound(folder / f"{i}.wav", i, samples)
    corpus = Corpus(
        "c",
        tuple(
            Utterance(str(i), folder / f"{i}.wav", 1, "x", None, n / 16_000) for i, n in enumerate(lengths)
        ),
        {},
    )
    there = run(corpus, [MelView()], tmp_path / "f").stores["mel"]
    values, frames = there.packed(["0", "1", "2", "3"])
    np.testing.assert_array_equal(frames, [26, 1501, 13, 51])  # 1 + samples // 160, of 15 s at most
    assert len(values) == frames.sum()
    assert there.bytes_on_disk < 1.1 * values.nbytes


LIGHT = """
    import sys
    import pcl_jax.features.workers, pcl_jax.views.mel, pcl_jax.views.egemaps
    print([name for name in ("jax", "flax", "pcl_jax.features.store", "torch") if name in sys.modules])
"""


def test_workers_load_neither_jax_nor_the_store():
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIGHT)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.corpora
def test_real_speech(tmp_path, corpora_folder):
    paths = sorted((corpora_folder / "emodb").glob("*.wav"))[:8] + sorted(
        (corpora_folder / "ravdess_original").glob("*.wav")
    )
    corpus = Corpus("mixed", tuple(Utterance(p.stem, p, 1, "x", None, 0.0) for p in paths), {})
    result = run(corpus, VIEWS, tmp_path)
    for name in ("mel", "egemaps"):
        values, _ = result.stores[name].packed(result.stores[name].ids)
        assert np.isfinite(values).all()
    assert {len(result.stores["egemaps"][id]) for id in result.stores["egemaps"]} == {88}
