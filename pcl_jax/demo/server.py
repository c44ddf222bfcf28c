"""Server of the page: loopback only, a random token in the address, no other origin.

Uploads are bounded in size and length, decoded in a process of their own, and never stored. Labels go to the
labelling table at once, which is read again for every request: a reload loses nothing.
"""

import asyncio
import io
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from threading import Lock

import soundfile
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pcl_jax import audio
from pcl_jax.audio import AudioError, one_line
from pcl_jax.corpora.spelling import tidy
from pcl_jax.corpora.utterance import CorpusError
from pcl_jax.demo.analysis import Predict, Windows, analyse
from pcl_jax.demo.decode import UploadError, decode
from pcl_jax.inference import labels
from pcl_jax.inference.labels import Clip

LARGEST_BYTES = 64 * 2**20
"""Size of the largest upload."""
LONGEST_S = 300.0
"""Duration of the longest recording that the page analyses, in seconds."""
MOST_WAITING = 8
"""Uploads that may wait for the one that is being analysed."""
_LONGEST_NAME, _LARGEST_LABEL = 200, 2**12

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Demo:
    """Content of the page."""

    classes: tuple[str, ...]
    """Classes of the model, and those that labels can have."""
    predict: Predict | None = None
    """The model; None where the page only takes labels."""
    table: Path | None = None
    """Labelling table; None where the page only predicts."""
    remarks: tuple[str, ...] = ()
    """Facts about the model that users must know, one line each."""
    windows: Windows = field(default_factory=Windows)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


def serve(demo: Demo, port: int, announce: Callable[[str], None]) -> None:
    """Serve the page on 127.0.0.1 until the process is stopped.

    Args:
        demo: Content of the page.
        port: TCP port; 0 takes a free one.
        announce: Called with the address once the port is open.

    Raises:
        OSError: The port is taken.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        port = listener.getsockname()[1]
        announce(f"http://127.0.0.1:{port}/{demo.token}/")
        settings = uvicorn.Config(
            app(demo, port), log_level="warning", access_log=False, server_header=False, limit_concurrency=64
        )
        uvicorn.Server(settings).run(sockets=[listener])


def app(demo: Demo, port: int, page: str | None = None) -> Starlette:
    """Return the application; `page` replaces the text of `page.html` in tests."""
    text = page or files("pcl_jax.demo").joinpath("page.html").read_text("utf-8")
    desk, uploads = _Desk(demo), _Uploads(demo)
    routes: list[tuple[str, str, Handler]] = [
        ("GET", "/", lambda request: _page(demo, text)),
        ("POST", "/predict", uploads.predict),
        ("GET", "/clips", desk.clips),
        ("GET", "/clips/{number:int}", desk.clip),
        ("POST", "/clips/{number:int}", desk.label),
    ]
    return Starlette(
        routes=[
            Route("/{token}" + path, _guarded(handler, demo.token, port), methods=[method])
            for method, path, handler in routes
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )


def _guarded(handler: Handler, token: str, port: int) -> Handler:
    """Refuse a request with another host (DNS rebinding), another origin or another token."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def guarded(request: Request) -> Response:
        origin = request.headers.get("origin")
        if request.headers.get("host") not in hosts:
            raise HTTPException(403, "this page answers on 127.0.0.1 only")
        if origin is not None and origin.removeprefix("http://") not in hosts:
            raise HTTPException(403, "no other page may use this one")
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            raise HTTPException(404, "no such page: take the address that pcl demo printed")
        response = await handler(request)
        response.headers["cache-control"] = "no-store"
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        response.headers["cross-origin-resource-policy"] = "same-origin"
        return response

    return guarded


async def _page(demo: Demo, text: str) -> Response:
    config = {
        "classes": demo.classes,
        "predicts": demo.predict is not None,
        "labels": demo.table.name if demo.table else None,
        "remarks": demo.remarks,
        "longest_s": LONGEST_S,
        "largest_bytes": LARGEST_BYTES,
    }
    nonce = secrets.token_urlsafe(16)
    quoted = json.dumps(config).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "media-src 'self' blob:; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    content = text.replace("__NONCE__", nonce).replace("__CONFIG__", quoted)
    return HTMLResponse(content, headers={"content-security-policy": policy})


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": one_line(error.detail)}, error.status_code)


async def _fail(_: Request, error: Exception) -> Response:
    """Answer what nobody expected; the server goes on."""
    return JSONResponse({"error": one_line(f"this failed: {str(error) or type(error).__name__}")}, 500)


async def _body(request: Request, most: int) -> bytes:
    """Read the body of a request, and stop reading as soon as it is too large."""
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise HTTPException(413, f"the upload is larger than {most / 2**20:.3g} MiB")
    except ClientDisconnect:
        raise HTTPException(400, "the upload ended before it was whole") from None
    return bytes(content)


class _Uploads:
    """Analysis of uploads, one at a time."""

    def __init__(self, demo: Demo):
        self._demo = demo
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def predict(self, request: Request) -> Response:
        predict = self._demo.predict
        if predict is None:
            raise HTTPException(404, "there is no model here: pcl demo MODEL")
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "too many uploads are waiting; try again in a while")
        self._waiting += 1
        try:
            content = await _body(request, LARGEST_BYTES)
            if not content:
                raise HTTPException(400, "the upload is empty")
            async with self._turn:
                waveform = await run_in_threadpool(decode, content, LONGEST_S)
                found = await run_in_threadpool(analyse, waveform, predict, self._demo.windows)
        except (UploadError, AudioError) as error:
            raise HTTPException(422, str(error)) from None
        finally:
            self._waiting -= 1
        name = request.query_params.get("name", "recording").replace("\\", "/").rsplit("/", 1)[-1]
        return JSONResponse({"name": one_line(name)[:_LONGEST_NAME], **found})


class _Desk:
    """Clips that wait for labels. The table on the disk is the only state."""

    def __init__(self, demo: Demo):
        self._demo = demo
        self._lock = Lock()

    async def clips(self, _: Request) -> Response:
        clips = await run_in_threadpool(self._read)
        classes = sorted({*self._demo.classes, *(clip.emotion for clip in clips if clip.emotion)})
        rows = [{"id": clip.id, "speaker": clip.speaker, "emotion": clip.emotion} for clip in clips]
        return JSONResponse({"classes": classes, "clips": rows})

    async def clip(self, request: Request) -> Response:
        return await run_in_threadpool(self._sound, request.path_params["number"])

    async def label(self, request: Request) -> Response:
        content = await _body(request, _LARGEST_LABEL)
        try:
            given = json.loads(content)
            id, emotion = given["id"], given["emotion"]
            if not (isinstance(id, str) and isinstance(emotion, str)):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise HTTPException(400, 'a label is {"id": ..., "emotion": ...}') from None
        await run_in_threadpool(self._write, request.path_params["number"], id, emotion)
        return JSONResponse({"saved": True})

    def _read(self) -> list[Clip]:
        if self._demo.table is None:
            raise HTTPException(404, "there are no clips to label here: pcl demo --label x.csv")
        try:
            return labels.read(self._demo.table)
        except CorpusError as error:
            raise HTTPException(409, str(error)) from None

    def _find(self, number: int) -> tuple[list[Clip], Clip]:
        clips = self._read()
        if number >= len(clips):
            raise HTTPException(404, f"there is no clip {number}")
        return clips, clips[number]

    def _sound(self, number: int) -> Response:
        """Return a clip as a WAV file, whatever its format and its place in its file."""
        _, clip = self._find(number)
        assert self._demo.table is not None
        try:
            path = self._demo.table.parent / clip.file
            waveform = audio.read(path, start_s=clip.start_s, end_s=clip.end_s)
        except AudioError as error:
            raise HTTPException(422, str(error)) from None
        content = io.BytesIO()
        soundfile.write(content, waveform, audio.SAMPLING_RATE, subtype="PCM_16", format="WAV")
        return Response(content.getvalue(), media_type="audio/wav")

    def _write(self, number: int, id: str, emotion: str) -> None:
        emotion = tidy(emotion)
        if len(emotion) > _LONGEST_NAME or not emotion.isprintable():
            raise HTTPException(400, "a label is a short text in one line")
        if emotion.lower() in ("nan", "nat", "none", "null", "<na>"):
            raise HTTPException(400, f"{emotion!r} means no label in a table; give another word")
        with self._lock:
            clips, clip = self._find(number)
            if clip.id != id:
                raise HTTPException(409, "the table has changed since; load the page again")
            clips[number] = replace(clip, emotion=emotion)
            assert self._demo.table is not None
            try:
                labels.require_writable(self._demo.table)
                labels.write(self._demo.table, clips)
            except CorpusError as error:
                raise HTTPException(409, f"the label was not saved: {error}") from None
            except OSError as error:
                raise HTTPException(507, f"the label was not saved ({error.strerror or error})") from None
