"""`pcl demo`: wrong use is refused at once, the page predicts what the model predicts."""

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pcl_jax.commands import demo
from pcl_jax.commands.flags import Demo
from pcl_jax.commands.session import UsageError
from pcl_jax.corpora.utterance import CorpusError
from pcl_jax.inference import labels
from pcl_jax.inference.model_folder import load_model
from tests.inference.conftest import folder, tone  # noqa: F401 - a fixture


@pytest.fixture
def table(tmp_path: Path) -> Path:
    labels.write(tmp_path / "x.csv", [labels.Clip("a", "a.wav", "anna")])
    return tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "needs a model folder, or --label"),
        ({"port": 70_000}, "--port 70000"),
        ({"window": 0.0}, "--window 0"),
        ({"hop": 1e9}, "--hop 1e"),
    ],
)
def test_wrong_use_is_refused(table, flags, message):
    label = table if flags else None
    with pytest.raises(UsageError, match=message):
        demo.demo(Demo(label=label, **flags))


def test_a_table_that_would_lose_a_column_is_refused(table):
    table.write_text("file,start,end,speaker,emotion,notes,id\na.wav,,,anna,,my note,a\n")
    with pytest.raises(CorpusError, match="'notes', which would be lost"):
        demo.demo(Demo(label=table))


@pytest.mark.slow
def test_the_page_predicts_what_the_model_predicts(folder):  # noqa: F811 - the fixture
    model = load_model(folder)
    predict = demo.predictor(model)
    waveforms = [tone(100), tone(101), tone(102)]
    expected = [list(model.predict(waveform, 16_000).values()) for waveform in waveforms]
    np.testing.assert_allclose(predict(waveforms), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_an_address_that_answers_and_a_signal_ends_it_well(table, stop):
    """Exit code 0: to be stopped is the page's only end, and each label is on the disk already."""
    command = [sys.executable, "-c", "from pcl_jax.cli import main; main()", "demo", "--label", str(table)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().removeprefix("page: ").strip()
        assert address.startswith("http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=30) as answer:
            assert b"pcl demo" in answer.read()
        running.send_signal(stop)
        assert running.wait(timeout=60) == 0
