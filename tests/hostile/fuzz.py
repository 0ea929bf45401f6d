"""A fuzz target over container, entropy decoding, metadata and the Pillow plugin.

    python -m tests.hostile.fuzz --minutes 30 --seed 1

Files are mutated by their structure: bytes and bits, lengths, boxes dropped, doubled, exchanged
between files, checksums made right again so that damage reaches the decoder behind them. What may
come out of `examine` is an image or one of nicc's own errors; anything else is a crash, whose input
is written to the folder ``crashes``. tests/hostile/test_fuzz.py runs a few thousand inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import nicc
import nicc.pillow
from nicc.container import (
    BOX_ALPHA,
    BOX_EXIF,
    BOX_GRAPHICS,
    BOX_ICC,
    BOX_XMP,
    Container,
    Group,
    pack,
    unpack,
    with_checksum,
)
from nicc.decoder.hyper import read_z
from nicc.encoder.encode import encode_plainly
from nicc.errors import NiccError
from nicc.geometry import Grid
from nicc.graphics import Stored, box_of
from nicc.images import Picture
from nicc.model import load_model, model_of_code
from tests.conftest import GOLDEN

LARGEST = 1 << 16
"""Pixels of a mutated file's claim beyond which decoding it would only take long."""


def seeds() -> list[bytes]:
    """Golden files, and small ones with every kind of box."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)).convert("RGBA")
    exif = Image.Exif()
    exif[0x010E] = "text"
    image.info |= {"exif": exif.tobytes(), "icc_profile": b"profile" * 9, "xmp": b"<x/>", "dpi": (300, 300)}
    full = nicc.encode(image, quality=10)
    page = np.full((140, 190, 3), 240, np.uint8)
    page[:40:7, :100] = 20
    page[70:, 100:] = np.random.default_rng(1).integers(0, 256, (70, 90, 3))
    squares, model = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool), load_model("two-layer-visual")
    cells = squares.repeat(2, 0).repeat(2, 1)[:5]
    extras = {BOX_GRAPHICS: box_of(page, cells)}
    mixed = pack(encode_plainly(model, Picture(page, extras=extras), 30).container)
    lossless = nicc.encode(Image.fromarray(page[:20, :30]), lossless=True)
    return [*(p.read_bytes() for p in sorted(GOLDEN.glob("*.nic"))), full, mixed, lossless]


def examine(data: bytes) -> str:
    """Opens a file in every way there is; says what happened. Raises what nobody should ever see."""
    try:
        header = nicc.inspect(data)
    except NiccError as e:
        _line(e)
        _plugin(data)
        return "refused by the container"
    if header.width * header.height > LARGEST:
        return "too large to try"
    try:
        image = nicc.decode(data)
        nicc.decode(data, crop=(0, 0, 1, 1))
    except NiccError as e:
        _line(e)
        _plugin(data)
        return "refused by the decoder"
    _plugin(data)
    for kind in ("PNG", "WEBP"):
        image.save(io.BytesIO(), kind)
    return "decoded"


def _line(error: NiccError) -> None:
    if not str(error) or "\n" in str(error):
        raise AssertionError(f"not a line for a person: {error!r}")


def _plugin(data: bytes) -> None:
    # Pillow's words for a file that it cannot read, and for one that claims too many pixels
    with contextlib.suppress(OSError, Image.DecompressionBombError):
        Image.open(io.BytesIO(data)).load()


class Mutator:
    """Endless variations of some files."""

    def __init__(self, files: list[bytes], seed: int) -> None:
        self.files, self.rng = files, np.random.default_rng(seed)
        self.parsed = [unpack(f) for f in files]

    def next(self) -> bytes:
        n = int(self.rng.integers(len(self.files)))
        if self.rng.random() < 0.5:
            return self._bytes(self.files[n])
        try:
            return pack(self._structure(self.parsed[n]))
        except (NiccError, ValueError):  # what cannot even be written
            return self._bytes(self.files[n])

    def _bytes(self, data: bytes) -> bytes:
        rng, out = self.rng, bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(len(out) + 1))
            what = int(rng.integers(6))
            if what == 0 and at < len(out):
                out[at] ^= 1 << int(rng.integers(8))
            elif what == 1 and at < len(out):
                out[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
            elif what == 2:
                del out[at : at + int(rng.integers(1, 20))]
            elif what == 3:
                out[at:at] = rng.bytes(int(rng.integers(1, 20)))
            elif what == 4:
                end = int(rng.integers(at, len(out) + 1))
                out[at:at] = out[at:end]
            else:
                del out[at:]
            if not out:
                break
        return bytes(out)

    def _structure(self, c: Container) -> Container:
        """Another file with right checksums, so that what follows them is reached."""
        rng = self.rng
        other = self.parsed[int(rng.integers(len(self.parsed)))]
        what = int(rng.integers(7))
        header = c.header
        if what == 0:
            header = replace(header, width=int(rng.integers(1, 300)), height=int(rng.integers(1, 300)))
        elif what == 1:
            header = replace(
                header, rate_point=int(rng.integers(128)), beta=float(rng.random()), grey=bool(rng.integers(2))
            )
        elif what == 2:
            c = replace(c, z=self._bytes(c.z) if c.z else b"\0" * int(rng.integers(9)))
        elif what == 3 and c.groups:
            n = int(rng.integers(len(c.groups)))
            groups = list(c.groups)
            groups[n] = Group(int(rng.integers(1 << 32)), self._bytes(groups[n].stream or b"\0"))
            c = replace(c, groups=tuple(groups))
        elif what == 4:
            c = replace(c, z=other.z, groups=other.groups)
        elif what == 5:
            c = replace(c, groups=c.groups * int(rng.integers(0, 4)))
        else:
            kind = int(rng.choice([BOX_ALPHA, BOX_EXIF, BOX_ICC, BOX_XMP, BOX_GRAPHICS]))
            held = other.extras.get(kind) or c.extras.get(kind) or rng.bytes(int(rng.integers(0, 60)))
            c = replace(c, extras={**c.extras, kind: self._bytes(held) if held else b""})
        c = replace(c, header=header)
        return self._signed(c)

    def _signed(self, c: Container) -> Container:
        """With the checksum of z's symbols made right, if they can be read."""
        try:
            if c.lossless is not None:
                return with_checksum(c, zlib.crc32(c.lossless))
            model = model_of_code(c.header.model)
            stored = Stored.of(c.header, c.extras)
            z = read_z(model, c.header, c.z, Grid.of(c.header), stored.hyper_latents if stored else None)
            return with_checksum(c, zlib.crc32(z.data))
        except Exception:  # anything: then the checksum stays wrong
            return c


def fuzz(count: int | None, minutes: float | None, seed: int, crashes: Path | None = None) -> Counter[str]:
    """Examines mutated files until one of the limits; returns how often each outcome was seen."""
    mutator = Mutator(seeds(), seed)
    outcomes: Counter[str] = Counter()
    end = None if minutes is None else time.process_time() + minutes * 60
    while (count is None or outcomes.total() < count) and (end is None or time.process_time() < end):
        data = mutator.next()
        try:
            outcomes[examine(data)] += 1
        except Exception:
            if crashes is None:
                raise
            crashes.mkdir(exist_ok=True)
            (crashes / f"{zlib.crc32(data):08x}.nic").write_bytes(data)
            outcomes["CRASHED"] += 1
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of the processor's time")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.process_time()
    outcomes = fuzz(None, arguments.minutes, arguments.seed, Path("crashes"))
    print(f"{outcomes.total()} inputs in {(time.process_time() - begun) / 60:.1f} minutes of CPU: {dict(outcomes)}")


if __name__ == "__main__":
    main()
