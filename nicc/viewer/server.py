"""nicc view: a page on the loopback interface that decodes .nic files as its slider moves.

Python's own HTTP server, one thread per request. It serves the page, facts, and images by number;
no path of a request is ever a path of a file. Addresses begin with a random word, and requests
that do not name this machine as their host are refused, so that other pages cannot ask for images.
"""

from __future__ import annotations

import hmac
import io
import json
import secrets
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from nicc.container import Container, unpack
from nicc.decoder.decode import decode_pixels, group_latents, model_for, renderer_of
from nicc.decoder.render import synthesise
from nicc.graphics import layer_of
from nicc.images import PNG_LEVEL, Picture, open_image, to_image
from nicc.model import AnyModel, Model

RENDERINGS = 12
"""Decoded images that are kept per file."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class Shown:
    """One file: its symbols are decoded once or twice, its pixels for every beta. Raises `NiccError`."""

    name: str
    data: bytes
    original: Image.Image | None = None
    container: Container = field(init=False)
    model: AnyModel = field(init=False)

    def __post_init__(self) -> None:
        self.container = unpack(self.data)
        self.model = model_for(self.container)
        self._lock = threading.Lock()
        self._groups: dict[bool, list[np.ndarray]] = {}
        self._layer = layer_of(self.container)
        self.png = lru_cache(RENDERINGS)(self._png)

    @property
    def facts(self) -> dict[str, Any]:
        """What the page shows beside the image."""
        h = self.container.header
        return {
            "name": self.name,
            "width": h.width,
            "height": h.height,
            "bytes": len(self.data),
            "bpp": round(len(self.data) * 8 / (h.width * h.height), 4),
            "model": f"{self.model.name} version {self.model.version}",
            "rate_point": h.rate_point,
            "beta": round(h.beta, 3),
            "realism": self.model.has_realism,
            "original": self.original is not None,
        }

    def _png(self, beta: float) -> bytes:
        header = self.container.header
        if not isinstance(self.model, Model):  # fitted to the image, without realism
            pixels = decode_pixels(self.container, self.model, beta)
            return png_bytes(to_image(Picture(pixels, header.grey, self.container.extras)))
        renderer = renderer_of(self.model, self.container, beta)
        with self._lock:
            if renderer.middle not in self._groups:
                groups = group_latents(self.model, self.container, middle=renderer.middle)
                self._groups[renderer.middle] = list(groups)
        pixels = synthesise(renderer, self._groups[renderer.middle], header.width, header.height)
        if self._layer:
            self._layer.paste(pixels)
        return png_bytes(to_image(Picture(pixels, header.grey, self.container.extras)))


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def load(path: Path, original: Path | None) -> Shown:
    """Reads a file, and the original beside it if one is given. Raises `NiccError` and `OSError`."""
    return Shown(path.name, path.read_bytes(), open_image(original) if original else None)


class Server(ThreadingHTTPServer):
    """Serves the page for some files at ``url`` until `shutdown`."""

    daemon_threads = True

    def __init__(self, shown: list[Shown], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.shown = shown
        self.word = secrets.token_urlsafe(12)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.word}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "nicc", ""
    timeout = 30

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            return self._refuse(HTTPStatus.FORBIDDEN)
        url = urlsplit(self.path)
        word, _, what = url.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(word.encode(), self.server.word.encode()):
            return self._refuse(HTTPStatus.NOT_FOUND)
        try:
            answer = self._answer(what, parse_qs(url.query))
        except (ValueError, IndexError, KeyError):
            answer = None
        if answer is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        kind, body = answer
        self.send_response(HTTPStatus.OK)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, what: str, query: dict[str, list[str]]) -> tuple[str, bytes] | None:
        """Type and bytes of one of the four things there are; raises for any other."""
        if what == "":
            return "text/html; charset=utf-8", (files("nicc.viewer") / "page.html").read_bytes()
        if what == "facts":
            return "application/json", json.dumps([s.facts for s in self.server.shown]).encode()
        number = int(query["file"][0])
        shown = self.server.shown[number] if number >= 0 else None
        if what == "original" and shown and shown.original:
            return "image/png", png_bytes(shown.original.convert("RGB"))
        if what == "image" and shown:
            beta = float(query["beta"][0])
            if 0 <= beta <= (1 if shown.model.has_realism else 0):
                return "image/png", shown.png(round(beta, 3))
        return None

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_error(status)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
