from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from nicc import FormatError
from nicc.container import (
    BOX_ALPHA,
    BOX_EXIF,
    BOX_ICC,
    BOX_XMP,
    Container,
    Group,
    Header,
    header_bytes,
    pack,
    unpack,
)

HEADER = Header(1, b"\x01\x02\x03\x04", 768, 512, 32, 0.0)


def make(**changes) -> Container:
    whole = Container(HEADER, 0xDEADBEEF, b"zzzz", (Group(7, b"first"), Group(8, b"")), {})
    return replace(whole, **changes)


@pytest.mark.parametrize("seed", range(20))
def test_pack_and_unpack_are_inverse(seed):
    rng = np.random.default_rng(seed)
    extras = {k: rng.bytes(rng.integers(0, 400)) for k in (BOX_ICC, BOX_EXIF, BOX_XMP, BOX_ALPHA) if rng.random() < 0.5}
    model = int(rng.integers(1, 256)) if rng.random() < 0.5 else "mödel-" + "x" * int(rng.integers(0, 200))
    width, height = int(rng.integers(1, 65536)), int(rng.integers(1, 2000))
    header = Header(
        model, rng.bytes(4), width, height, int(rng.integers(64)), int(rng.integers(256)) / 255, seed % 2 == 0
    )
    groups = tuple(
        Group(int(rng.integers(1 << 32)), rng.bytes(rng.integers(0, 300))) for _ in range(rng.integers(1, 5))
    )
    c = Container(header, int(rng.integers(1 << 32)), rng.bytes(rng.integers(0, 300)), groups, extras)
    data = pack(c)
    assert unpack(data) == c
    assert unpack(data).header == header
    assert sum(b.size for b in unpack(data).boxes) + len(header_bytes(header)) + 4 == len(data)


def test_header_of_a_plain_photo_is_under_24_bytes():
    assert len(header_bytes(HEADER)) + 4 < 24


def test_every_truncation_is_refused():
    data = pack(make(extras={BOX_ICC: b"profile", BOX_ALPHA: b"alpha"}))
    for n in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:n])


def test_unknown_optional_boxes_are_skipped_and_mandatory_ones_refused():
    data = pack(make())
    payload = b"future"
    checksum = struct.pack("<I", zlib.crc32(payload, zlib.crc32(b"\x55")))
    read = unpack(data + b"\x55" + bytes([len(payload) + 4]) + checksum + payload)
    assert read == make()
    assert read.boxes[-1].name == "unknown-0x55"
    with pytest.raises(FormatError, match="newer nicc"):
        unpack(data + b"\x05\x00")


def test_a_damaged_optional_box_is_refused():
    data = bytearray(pack(make(extras={BOX_EXIF: b"exif data"})))
    data[-1] ^= 1
    with pytest.raises(FormatError, match="checksum of the exif box"):
        unpack(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (65536, 5), (5, 1 << 30), (65535, 65535)])
def test_absurd_sizes_are_refused(width, height):
    with pytest.raises(FormatError, match="outside the limits"):
        unpack(pack(make(header=replace(HEADER, width=width, height=height))))


def test_messages_say_what_is_wrong():
    good = pack(make())
    for data, message in [
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "not a .nic file"),
        (good[:4] + b"\x63" + good[5:], "version 99 is unknown"),
        (good[:-6] + b"\x02\xff\x7f" + b"x" * 8, "truncated: y box needs 16383 bytes, 8 left"),
        (pack(make(header=replace(HEADER, rate_point=128))), "rate point 128"),
    ]:
        with pytest.raises(FormatError, match=message):
            unpack(data)


def test_a_number_that_never_ends_is_refused():
    prefix = header_bytes(HEADER)[:10]
    with pytest.raises(FormatError, match="not a valid number"):
        unpack(prefix + b"\xff" * 40)
