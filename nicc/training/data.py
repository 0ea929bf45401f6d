"""Training photographs: decoded once into a flat cache, then cropped at random.

Sources are folders or tar shards of images in any format that Pillow reads. The cache holds plain
uint8 pixels, so that a training step never waits for an image decoder.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nicc.errors import ImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"}
SMALLEST_SCALE = 0.6


def _sources(data: Path) -> list[tuple[Path, str | None]]:
    """(file, member) of every image below ``data``; members name files inside tar shards."""
    paths = [data] if data.is_file() else sorted(p for p in data.rglob("*") if p.is_file())
    found: list[tuple[Path, str | None]] = []
    for path in paths:
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                names = sorted(m.name for m in tar.getmembers() if m.isfile())
            found += [(path, n) for n in names if Path(n).suffix.lower() in SUFFIXES]
        elif path.suffix.lower() in SUFFIXES:
            found.append((path, None))
    return found


def _decode_source(source: tuple[Path, list[str] | None]) -> list[np.ndarray]:
    path, members = source
    if members is None:
        blobs: Iterator[bytes] = iter([path.read_bytes()])
    else:
        tar = tarfile.open(path)  # noqa: SIM115 - closed by the end of this short-lived worker call
        blobs = (tar.extractfile(m).read() for m in members)  # type: ignore[union-attr]
    images = []
    for blob in blobs:
        with Image.open(io.BytesIO(blob)) as image:
            images.append(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    return images


class Photos:
    """All photographs below the given folders or shards, as uint8 arrays ``(height, width, 3)``.

    Raises `ImageError` when no image of at least ``smallest`` pixels a side is found.
    """

    def __init__(self, data: list[Path], cache: Path | None = None, smallest: int = 64, workers: int = 2) -> None:
        sources = [s for d in data for s in _sources(d)]
        if not sources:
            raise ImageError(f"{', '.join(map(str, data))}: no images found")
        key = hashlib.sha256(repr([(p.name, m, p.stat().st_size) for p, m in sources]).encode()).hexdigest()[:16]
        stored = cache / f"photos-{key}.npz" if cache else None
        if stored and stored.exists():
            with np.load(stored) as f:
                flat, sizes = f["pixels"], f["sizes"]
        else:
            arrays = [a for a in self._decode(sources, workers) if min(a.shape[:2]) >= smallest]
            if not arrays:
                raise ImageError(f"{', '.join(map(str, data))}: no image of {smallest} pixels a side or more")
            sizes = np.array([a.shape[:2] for a in arrays])
            flat = np.concatenate([a.reshape(-1) for a in arrays])
            if stored:
                stored.parent.mkdir(parents=True, exist_ok=True)
                temporary = stored.with_suffix(f".{os.getpid()}.tmp.npz")
                np.savez(temporary, pixels=flat, sizes=sizes)
                temporary.replace(stored)
        ends = np.cumsum(sizes[:, 0] * sizes[:, 1] * 3)
        self.images = [
            flat[end - h * w * 3 : end].reshape(h, w, 3) for end, (h, w) in zip(ends, sizes.tolist(), strict=True)
        ]
        areas = sizes[:, 0].astype(float) * sizes[:, 1]
        self.pixels = int(areas.sum())
        self._weights = areas / areas.sum()

    @staticmethod
    def _decode(sources: list[tuple[Path, str | None]], workers: int) -> Iterator[np.ndarray]:
        jobs: list[tuple[Path, list[str] | None]] = []
        for path, member in sources:
            if member is None:
                jobs.append((path, None))
            elif jobs and jobs[-1][0] == path and len(jobs[-1][1] or []) < 16:
                jobs[-1][1].append(member)  # type: ignore[union-attr]
            else:
                jobs.append((path, [member]))
        with ProcessPoolExecutor(workers) as pool:
            for images in pool.map(_decode_source, jobs):
                yield from images

    def crops(self, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
        """``count`` random crops, uint8 ``(count, size, size, 3)``, flipped and reduced by up to 0.6.

        The reduction takes away coding artefacts of the sources and varies the scale of detail.
        """
        out = np.empty((count, size, size, 3), np.uint8)
        for i in range(count):
            image = self.images[rng.choice(len(self.images), p=self._weights)]
            scale = rng.uniform(SMALLEST_SCALE, 1.0)
            side = min(round(size / scale), *image.shape[:2])
            top, left = (rng.integers(0, n - side + 1) for n in image.shape[:2])
            crop = image[top : top + side, left : left + side]
            if side != size:
                crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
            out[i] = crop
        return out
