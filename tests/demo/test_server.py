"""Server of the page: it answers its own page alone, keeps every label, and survives every upload."""

import io
import json
import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pcl_jax.corpora import read as read_corpus
from pcl_jax.demo import decode, server
from pcl_jax.inference import labels
from tests.demo.conftest import sound

PORT = 4321


@pytest.fixture
def client(demo) -> TestClient:
    return TestClient(server.app(demo, PORT), f"http://127.0.0.1:{PORT}", raise_server_exceptions=False)


def upload(client: TestClient, content: bytes, **query: str):
    return client.post("/secret/predict", content=content, params=query)


def test_an_upload_is_analysed(client):
    answer = upload(client, sound(5.0), name="my voice.wav")
    found = answer.json()
    assert answer.status_code == 200
    assert found["name"] == "my voice.wav"
    assert found["duration_s"] == 5.0
    assert found["probabilities"] == pytest.approx([1 / 6, 5 / 6])
    assert [(w["start"], w["end"]) for w in found["windows"]] == [(0, 3), (1, 4), (2, 5)]
    assert all(w["probabilities"] == pytest.approx([1 / 4, 3 / 4]) for w in found["windows"])
    assert len(found["peaks"]) == 600


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_the_content_decides_what_an_upload_is_not_its_name_or_type(client, format):
    content = sound(1.0, 44_100, format)
    answer = client.post(
        "/secret/predict", content=content, params={"name": "x.png"}, headers={"content-type": "image/png"}
    )
    assert answer.json()["duration_s"] == pytest.approx(1.0, abs=0.1)


def test_nothing_of_an_upload_stays_on_the_disk(client, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = sorted(os.walk(tmp_path))
    for content in (sound(1.0), b"no audio"):
        upload(client, content, name="../../evil.wav")
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\windows\\evil.wav", "evil.wav"),
        ("a\nb\x00", r"a\nb\x00"),
        ("n" * 9999, "n" * 200),
        ("<script>", "<script>"),
    ],
)
def test_a_name_is_a_name_not_a_path(client, name, shown):
    assert upload(client, sound(), name=name).json()["name"] == shown


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "empty"),
        (b"<html>not audio</html>" * 50, 422, ""),
        (sound()[:4000], 422, "truncated"),
        (sound(0.001), 422, "too short"),
        (sound(400.0, 8000), 422, "lasts 400 s"),
    ],
)
def test_an_upload_that_cannot_be_used_gets_one_line(client, content, status, message):
    answer = upload(client, content)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert message in error
    assert "\n" not in error
    assert "/tmp" not in error
    assert upload(client, sound()).status_code == 200


def test_an_upload_that_is_too_large_is_not_read_to_its_end(client, monkeypatch):
    monkeypatch.setattr(server, "LARGEST_BYTES", 1000)
    read = []

    def endless():
        for _ in range(1000):
            read.append(1)
            yield b"x" * 300

    assert client.post("/secret/predict", content=endless()).status_code == 413
    assert upload(client, b"x" * 1001).status_code == 413


def test_a_header_that_promises_an_hour_takes_no_memory(client):
    content = bytearray(sound(1.0))
    content[4:8] = content[40:44] = (3600 * 32_000).to_bytes(4, "little")
    assert upload(client, bytes(content)).status_code == 422


def test_a_decoder_that_takes_too_long_or_too_much_is_ended(client, monkeypatch):
    monkeypatch.setattr(decode, "WALL_S", 0.01)
    assert "more than" in upload(client, sound()).json()["error"]
    monkeypatch.undo()
    assert upload(client, sound()).status_code == 200


def test_a_model_that_fails_is_an_answer_and_not_the_end(demo):
    def fail(waveforms):
        raise RuntimeError("first line\nsecond")

    broken = TestClient(
        server.app(replace(demo, predict=fail), PORT),
        f"http://127.0.0.1:{PORT}",
        raise_server_exceptions=False,
    )
    answer = broken.post("/secret/predict", content=sound())
    assert answer.status_code == 500
    assert answer.json()["error"] == r"this failed: first line\nsecond"
    assert broken.get("/secret/clips").status_code == 200


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_and_damaged_uploads_get_one_line_or_a_result(client, data):
    whole = sound(0.3, 16_000, data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "MP3"])))
    content = bytearray(data.draw(st.sampled_from([whole, b"RIFF", b"\x00" * 64])))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), max_size=20)
    ):
        content[place % len(content)] = value
    content += data.draw(st.binary(max_size=50))
    answer = client.post("/secret/predict", content=bytes(content), params={"name": data.draw(st.text())})
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert len(answer.json()["error"].splitlines()) == 1


# ---- who may ask


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/secret/", 200),
        ({"origin": f"http://127.0.0.1:{PORT}"}, "/secret/clips", 200),
        ({"host": f"localhost:{PORT}"}, "/secret/clips", 200),
        ({"host": "evil.example"}, "/secret/", 403),
        ({"host": f"evil.example:{PORT}"}, "/secret/clips", 403),
        ({"origin": "http://evil.example"}, "/secret/clips", 403),
        ({"origin": "null"}, "/secret/clips", 403),
        ({"origin": f"https://127.0.0.1:{PORT}"}, "/secret/clips", 403),
        ({"origin": f"http://127.0.0.1:{PORT + 1}"}, "/secret/clips", 403),
        ({}, "/wrong/", 404),
        ({}, "/sécret/clips", 404),
        ({}, "/", 404),
        ({}, "/secret/../../etc/passwd", 404),
        ({}, "/secret/clips/../../x.csv", 404),
    ],
)
def test_only_the_page_itself_is_answered(client, headers, path, status):
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_label_from_another_origin_is_not_written(client, table):
    before = table.read_bytes()
    answer = client.post(
        "/secret/clips/0", json={"id": "a.wav", "emotion": "angry"}, headers={"origin": "http://evil.example"}
    )
    assert answer.status_code == 403
    assert table.read_bytes() == before


def test_the_page_asks_no_other_host_and_runs_no_other_script(client, demo):
    answer = client.get("/secret/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in answer.text.split("<body>")[0].replace("http-equiv", "")
    assert "https://" not in answer.text
    assert "EU AI Act, Art. 5(1)(f)" in answer.text


def test_a_class_or_a_remark_cannot_end_the_script(demo):
    hostile = replace(demo, classes=("</script><script>alert(1)</script>", "b"), remarks=("<!--<script>",))
    page = TestClient(server.app(hostile, PORT), f"http://127.0.0.1:{PORT}").get("/secret/").text
    assert page.count("</script>") == 1
    assert "alert(1)" in page


# ---- labels


def test_a_label_is_in_the_file_at_once_and_the_file_is_a_table(client, table):
    assert client.get("/secret/clips").json()["classes"] == ["angry", "calm"]
    for number, emotion in ((1, "angry"), (0, "happy"), (2, "calm"), (2, "")):
        clip = client.get("/secret/clips").json()["clips"][number]
        answer = client.post(f"/secret/clips/{number}", json={"id": clip["id"], "emotion": emotion})
        assert answer.json() == {"saved": True}
        assert labels.read(table)[number].emotion == emotion
    corpus = read_corpus("table", table)
    assert [u.emotion for u in corpus.utterances] == ["happy", "angry", None]
    assert client.get("/secret/clips").json()["classes"] == ["angry", "calm", "happy"]


def test_a_change_by_another_program_is_kept(client, table):
    clips = labels.read(table)
    labels.write(table, [clips[0], replace(clips[1], emotion="sad"), clips[2]])
    client.post("/secret/clips/0", json={"id": "a.wav", "emotion": "calm"})
    assert [clip.emotion for clip in labels.read(table)] == ["calm", "sad", ""]
    labels.write(table, clips[1:])
    answer = client.post("/secret/clips/0", json={"id": "a.wav", "emotion": "calm"})
    assert answer.status_code == 409
    table.write_text(
        table.read_text().replace("emotion,id", "emotion,notes,id").replace(",,b", ",,my note,b")
    )
    before = table.read_bytes()
    assert client.post("/secret/clips/0", json={"id": "b.flac", "emotion": "calm"}).status_code == 409
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"[" * 4000, b'{"id": "a.wav"}', b'{"id": 1, "emotion": []}', b"\xff\xfe"]
    + [
        json.dumps({"id": "a.wav", "emotion": word}).encode() for word in ("x" * 300, "a\x00b", "NaN", "none")
    ],
)
def test_a_label_that_is_none_changes_nothing(client, table, body):
    before = table.read_bytes()
    answer = client.post("/secret/clips/0", content=body)
    assert answer.status_code == 400, answer.text
    assert table.read_bytes() == before


def test_a_full_disk_is_said_and_the_old_labels_stay(client, table, monkeypatch):
    before = table.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.labels, "write", full)
    answer = client.post("/secret/clips/0", json={"id": "a.wav", "emotion": "calm"})
    assert answer.status_code == 507
    assert "not saved" in answer.json()["error"]
    assert table.read_bytes() == before


def test_clips_are_served_as_wav_segments_too(client, table):
    for number, seconds in enumerate((1.0, 2.0, 1.0)):
        waveform, rate = soundfile.read(io.BytesIO(client.get(f"/secret/clips/{number}").content))
        assert rate == 16_000
        assert len(waveform) / rate == pytest.approx(seconds, abs=1e-3)
        assert np.abs(waveform).max() > 0.2
    assert client.get("/secret/clips/3").status_code == 404
    assert client.get("/secret/clips/-1").status_code == 404
    (table.parent / "a.wav").unlink()
    assert "does not exist" in client.get("/secret/clips/0").json()["error"]


def test_a_page_without_model_or_table_says_so(demo):
    empty = TestClient(server.app(replace(demo, predict=None, table=None), PORT), f"http://127.0.0.1:{PORT}")
    assert "pcl demo MODEL" in empty.post("/secret/predict", content=sound()).json()["error"]
    assert "--label" in empty.get("/secret/clips").json()["error"]
