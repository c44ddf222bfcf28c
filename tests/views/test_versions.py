"""A store is told apart by the version of the algorithm and of the libraries that make its values."""

import importlib.metadata

import pytest

from pcl_jax.views import egemaps, mel, table, versions
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView
from pcl_jax.views.speech_models import view as speech
from pcl_jax.views.speech_models.view import SpeechModelView
from pcl_jax.views.table import TableView
from pcl_jax.views.versions import series


@pytest.fixture
def views(tmp_path):
    (tmp_path / "t.csv").write_text("id,f\na,1\n")
    return {
        mel: MelView(),
        egemaps: EgemapsView(),
        speech: SpeechModelView("whisper", "untrained"),
        table: TableView("mine", tmp_path / "t.csv"),
    }


def test_another_version_of_the_algorithm_is_another_description(views, monkeypatch):
    for module, view in views.items():
        before = view.describe()
        assert isinstance(before["version"], int)
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
        assert view.describe() != before


@pytest.mark.parametrize(
    ("library", "changed"),
    [("librosa", {mel}), ("opensmile", {egemaps}), ("soxr", {mel, egemaps, speech}),
     ("soundfile", {mel, egemaps, speech}), ("rich", set())],
)  # fmt: skip
def test_another_release_of_a_library_is_another_description_of_the_views_it_makes(
    views, monkeypatch, library, changed
):
    before = {module: view.describe() for module, view in views.items()}
    installed = importlib.metadata.version
    monkeypatch.setattr(versions, "version", lambda name: "99.0" if name == library else installed(name))
    assert {module for module, view in views.items() if view.describe() != before[module]} == changed


def test_releases_of_one_series_are_alike(monkeypatch):
    for release, expected in (
        ("0.11.0", "0.11"),
        ("0.11.2.dev1", "0.11"),
        ("2.6.0", "2"),
        ("2", "2"),
        ("0", "0"),
    ):
        monkeypatch.setattr(versions, "version", lambda _, release=release: release)
        assert series("x") == {"x": expected}
