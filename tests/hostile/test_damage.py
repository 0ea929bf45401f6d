"""Damaged files are refused, never decoded to a wrong image, and cost no memory."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

import nicc
from nicc import FormatError, ModelError
from nicc.container import BOX_ALPHA, pack, unpack, with_checksum
from nicc.decoder.hyper import read_z
from nicc.geometry import Grid
from nicc.model import load_model
from tests.conftest import GOLDEN

SMALL = (GOLDEN / "two-layer-astronaut-97x61-q0.nic").read_bytes()


def outcome(data: bytes):
    """The decoded pixels, or None if the file is refused with one of our errors."""
    try:
        return np.asarray(nicc.decode(data))
    except (FormatError, ModelError) as e:
        if not str(e) or "\n" in str(e):
            pytest.fail(f"not a line for a person: {e!r}")
        return None


def test_every_truncation_is_refused():
    assert all(outcome(SMALL[:n]) is None for n in range(len(SMALL)))


def test_random_corruption_is_refused():
    rng = np.random.default_rng(0)
    right = outcome(SMALL)
    refused = 0
    for _ in range(500):
        data = bytearray(SMALL)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        pixels = outcome(bytes(data))
        # bits behind the last symbol mean nothing: such a file may decode, but to the right image
        assert pixels is None or (pixels == right).all()
        refused += pixels is None
    assert refused > 490


def test_anything_appended_is_refused():
    for tail in (b"\0", b"\x01\0", b"\x02\x04\0\0\0\0", SMALL):
        assert outcome(SMALL + tail) is None


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_behind_a_good_header_are_refused(seed):
    rng = np.random.default_rng(seed)
    assert outcome(SMALL[:20] + rng.bytes(500)) is None


def test_a_larger_size_in_the_header_is_refused_before_any_pixels():
    header = nicc.inspect(SMALL)
    assert (header.width, header.height) == (97, 61)
    at = SMALL.index(bytes([97, 61]))
    for size in (b"\x62\x3d", b"\x61\x3e", b"\x90\x4e\x3d", b"\xff\xff\x03\xff\x0f"):
        assert outcome(SMALL[:at] + size + SMALL[at + 2 :]) is None


def claimed_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and that holds no pixels."""
    facts = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    empty = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (facts, empty, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(40000, 40000), (97, 61), (15000, 13000)])
def test_an_alpha_box_that_claims_any_size_is_refused_in_a_line(size, recwarn):
    """All checksums are right; Pillow has limits of its own, which warn or raise what is not ours."""
    container = unpack(SMALL)
    z = zlib.crc32(read_z(load_model("two-layer"), container.header, container.z, Grid.of(container.header)).data)
    bomb = pack(with_checksum(replace(container, extras={BOX_ALPHA: claimed_png(*size)}), z))
    with pytest.raises(FormatError, match="alpha plane") as caught:
        nicc.decode(bomb)
    assert "\n" not in str(caught.value)
    assert not recwarn.list
