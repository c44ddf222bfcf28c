"""The page in a browser: upload, labels by keyboard, no complaint on the console, no scrolling sideways."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from socket import create_server

import pytest
import uvicorn

from pcl_jax.demo import server
from pcl_jax.inference import labels
from tests.browser import find_browser, look

DRIVER = """<script nonce="__NONCE__">
const wait = async (what, test) => {
  for (let i = 0; i < 400; i++) { if (test()) return; await new Promise(done => setTimeout(done, 50)); }
  console.log(`waited in vain for ${what}`);
};
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
async function drive() {
  document.body.style.width = "%dpx";  // windows of this browser are no narrower than 500
  %s
  await new Promise(done => setTimeout(done, 300));
  console.log(`${document.body.offsetWidth} wide, page ${document.body.scrollWidth}`);
}
drive();
</script>"""
"""Script at the end of the page that does what a person would do."""

UPLOAD = """
  const choose = async (content, name) => {
    const list = new DataTransfer();
    list.items.add(new File([content], name, {type: "audio/wav"}));
    document.getElementById("files").files = list.files;
    document.getElementById("files").dispatchEvent(new Event("change"));
    await wait(name, () => document.getElementById("status").textContent.match(/^done|: /)
      && !document.getElementById("status").textContent.endsWith("..."));
  };
  const sound = await (await fetch("clips/1")).blob();
  await choose(sound, "a long name of a recording that somebody made on a telephone, 2.wav");
  await choose("no audio at all", "broken.wav");
  console.log(document.getElementById("status").textContent);
  console.log(document.querySelector("article h2").textContent);
  console.log(`${document.querySelectorAll("#rows tr").length} rows`);
  const pixels = [...document.querySelectorAll("article canvas")].map(canvas => canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data.filter((value, i) => i % 4 == 3 && value).length);
  console.log(`drawn ${pixels.every(count => count > 50)}`);
"""
LABEL = """
  await wait("clips", () => clips.length == 3);
  press("1");
  await wait("the first label", () => current == 1);
  press("2"); press("2"); press("2");  // pressed again before it is saved: one label
  await wait("the second label", () => current == 2);
  press("x"); press("ArrowLeft"); press("Delete");
  await wait("no label", () => clips[1].emotion == "" && !saving);
  document.getElementById("word").value = "bored";
  document.getElementById("more").requestSubmit();
  press("3");
  await wait("a new label", () => current == 2 && !saving);
  console.log(clips.map(clip => clip.emotion).join(" "));
  await wait("sound", () => document.getElementById("clip").duration > 0.9);
"""


@contextmanager
def served(demo: server.Demo, driver: str, width: int) -> Iterator[str]:
    """Serve a page with a driver on a free port; yield its address."""
    text = files("pcl_jax.demo").joinpath("page.html").read_text("utf-8")
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = server.app(demo, port, text.replace("</body>", DRIVER % (width, driver) + "</body>"))
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/{demo.token}/"
        finally:
            running.should_exit = True
            thread.join()


def show(demo: server.Demo, driver: str, picture: Path, width: int) -> list[str]:
    """Return what the console says; check that the page is as wide as the screen."""
    with served(demo, driver, width) as address:
        console, content = look(
            find_browser(), address, picture, max(500, width), "--virtual-time-budget=60000", height=1900
        )
    assert content.startswith(b"\x89PNG")
    *lines, sizes = console
    shown, page = (int(text) for text in sizes.replace(" wide, page", "").split())
    assert page <= shown == width, sizes
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("width", [900, 360])
def test_an_upload_is_shown_and_a_broken_one_is_said(demo, tmp_path, width):
    lines = show(demo, UPLOAD, tmp_path / "upload.png", width)
    status, heading, rows, drawn = lines
    assert status.startswith("broken.wav: ")
    assert heading.endswith("2.wav: angry (67 %)")
    assert (rows, drawn) == ("1 rows", "drawn true")


@pytest.mark.slow
def test_labels_by_keyboard_are_in_the_file_and_a_reload_goes_on(demo, tmp_path):
    assert show(demo, LABEL, tmp_path / "label.png", 360) == ["angry bored "]
    assert [clip.emotion for clip in labels.read(demo.table)] == ["angry", "bored", ""]
    again = 'await wait("clips", () => clips.length == 3); console.log(`clip ${current}`);'
    assert show(demo, again, tmp_path / "again.png", 360) == ["clip 2"]
