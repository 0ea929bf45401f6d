"""The images of a benchmark."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from nicc.container import BOX_ALPHA
from nicc.errors import ImageError
from nicc.images import from_image, open_image


@dataclass(frozen=True)
class Source:
    """One image of the folder; ``key`` is a digest of its pixels."""

    name: str
    path: Path
    key: str
    width: int
    height: int

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def digest(pixels: np.ndarray) -> str:
    """16 hex digits of SHA-256 over RGB bytes."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


@lru_cache(maxsize=2)
def read_pixels(path: Path) -> np.ndarray:
    """RGB pixels uint8 as every codec gets them. Raises `ImageError`."""
    with path.open("rb") as f:
        picture, _ = from_image(open_image(f), strip=True)
    return picture.pixels


def find_sources(source: Path) -> tuple[list[Source], list[str], list[str]]:
    """Images in a folder (or one image), notes, and problems with those that cannot be read.

    Raises `ImageError` if no image is left.
    """
    Image.init()
    known = set(Image.registered_extensions())
    paths = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.suffix.lower() in known)
    found: list[Source] = []
    notes, problems, seen = [], [], set()
    for path in paths:
        try:
            with path.open("rb") as f:
                picture, remarks = from_image(open_image(f))
        except (ImageError, OSError) as e:
            problems.append(f"{path.name}: skipped: {e}")
            continue
        if picture.grey:
            remarks.append("grey, coded as RGB")
        if BOX_ALPHA in picture.extras:
            remarks.append("alpha is left out")
        notes += [f"{path.name}: {remark}" for remark in remarks]
        key = digest(picture.pixels)
        if key in seen:
            notes.append(f"{path.name}: same pixels as another image, left out")
            continue
        seen.add(key)
        height, width, _ = picture.pixels.shape
        found.append(Source(path.name, path, key, width, height))
    if not found:
        raise ImageError(f"{source}: no readable image" + "".join(f"\n  {p}" for p in problems))
    return found, notes, problems


def lossless_webp(pixels: np.ndarray) -> bytes:
    """What browsers show of pixels that they have no codec for."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=2)
    return buffer.getvalue()
