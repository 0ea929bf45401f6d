"""The .nic container: bytes to `Container` and back. Knows nothing of codecs. See docs/format.md.

Invariants: `unpack(pack(c))` equals ``c``; `unpack` raises `FormatError` for anything that `pack`
cannot have written, reads every length against what is left, and allocates nothing larger than the
file itself.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace

from nicc.errors import FormatError

MAGIC = b"\x8eNIC"
VERSION = 1
NAMED_MODEL = 0
LOSSLESS_MODEL = 255
"""In the place of a model: the image is stored exactly, in a box of its own."""
MAX_SIDE = 65535
LARGEST_RATE_POINT = 127
MAX_PIXELS = 1 << 30
"""What the format can hold."""
DEFAULT_MAX_PIXELS = 178_956_970
"""What is decoded unless asked for more: Pillow's limit, against files that only claim to be large."""
FINGERPRINT_BYTES = 4
MAX_HEADER = 512
"""Bytes from a file's start that hold any header."""

BOX_Z = 1
BOX_Y = 2
BOX_LOSSLESS = 3
BOX_GRAPHICS = 4
"""Parts of the image that are stored exactly; checked and announced as optional boxes are, but never skipped."""
BOX_NETWORKS = 5
OPTIONAL = 0x40
"""Boxes whose type has this bit may be skipped by readers that do not know them."""
BOX_ICC, BOX_EXIF, BOX_XMP, BOX_ALPHA, BOX_TEXTURE = range(0x41, 0x46)
BOX_NAMES = {
    BOX_Z: "z",
    BOX_Y: "y",
    BOX_LOSSLESS: "lossless",
    BOX_GRAPHICS: "graphics",
    BOX_NETWORKS: "networks",
    BOX_ICC: "icc",
    BOX_EXIF: "exif",
    BOX_XMP: "xmp",
    BOX_ALPHA: "alpha",
    BOX_TEXTURE: "texture",
}

FLAG_GREY = 0x01
ANNOUNCED = (BOX_ALPHA, BOX_ICC, BOX_EXIF, BOX_XMP, BOX_GRAPHICS, BOX_TEXTURE)
FLAG_OF_BOX = {kind: 2 << n for n, kind in enumerate(ANNOUNCED)}
"""Header flags that announce boxes, so that a file cut at a box is noticed."""
KNOWN_FLAGS = FLAG_GREY | sum(FLAG_OF_BOX.values())


@dataclass(frozen=True)
class Header:
    """What a .nic file says about itself.

    ``model`` is a code of a shipped model, a name, or `LOSSLESS_MODEL`; ``fingerprint`` identifies the arrays that the
    receiver needs; ``rate_point`` is 0..127; ``beta`` the realism, 0..1 in steps of 1/255, that a decoder uses.
    """

    model: int | str
    fingerprint: bytes
    width: int
    height: int
    rate_point: int
    beta: float = 0.0
    grey: bool = False


@dataclass(frozen=True)
class Group:
    """One independently coded group of latent rows: CRC-32 of its symbols, and its bits."""

    checksum: int
    stream: bytes


@dataclass(frozen=True)
class Box:
    """Type and size in bytes, framing included, of one box of a file."""

    kind: int
    size: int

    @property
    def name(self) -> str:
        return BOX_NAMES.get(self.kind, f"unknown-{self.kind:#04x}")


@dataclass(frozen=True)
class Container:
    """A whole file. ``extras`` maps the types of announced boxes to payloads."""

    header: Header
    symbol_checksum: int
    z: bytes
    groups: tuple[Group, ...]
    extras: dict[int, bytes] = field(default_factory=dict)
    lossless: bytes | None = None
    """The image itself, in the place of z and groups."""
    networks: bytes | None = None
    """Networks fitted to the image, in the place of z."""
    boxes: tuple[Box, ...] = field(default=(), compare=False)
    """Every box in file order; filled in by `unpack`."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def header_bytes(header: Header, flags: int = 0) -> bytes:
    """The header up to its checksum."""
    flags |= FLAG_GREY if header.grey else 0
    parts = [MAGIC, bytes([VERSION])]
    if isinstance(header.model, str):
        name = header.model.encode()
        if not 0 < len(name) < 256:
            raise FormatError(f"model name {header.model!r} is not 1 to 255 bytes long")
        parts.append(bytes([NAMED_MODEL, len(name)]) + name)
    else:
        parts.append(bytes([header.model]))
    parts += [header.fingerprint, _varint(header.width), _varint(header.height)]
    parts.append(bytes([header.rate_point, round(header.beta * 255), flags]))
    return b"".join(parts)


def flags_of(extras: dict[int, bytes]) -> int:
    return sum(FLAG_OF_BOX[kind] for kind in extras)


def symbol_checksum(header: Header, extras: dict[int, bytes], z_checksum: int, groups: tuple[Group, ...]) -> int:
    """CRC-32 of the header, then the checksums of the symbols of z and of every group of y."""
    sums = struct.pack(f"<{len(groups) + 1}I", z_checksum, *(g.checksum for g in groups))
    return zlib.crc32(sums, zlib.crc32(header_bytes(header, flags_of(extras))))


def pack(container: Container) -> bytes:
    """The file's bytes."""
    parts = [header_bytes(container.header, flags_of(container.extras)), struct.pack("<I", container.symbol_checksum)]
    boxes = [(BOX_Z, container.z) if container.networks is None else (BOX_NETWORKS, container.networks)]
    boxes += [(BOX_Y, struct.pack("<I", g.checksum) + g.stream) for g in container.groups]
    if container.lossless is not None:
        boxes = [(BOX_LOSSLESS, container.lossless)]
    for kind, payload in container.extras.items():
        checksum = zlib.crc32(payload, zlib.crc32(bytes([kind])))
        boxes.append((kind, struct.pack("<I", checksum) + payload))
    for kind, payload in boxes:
        parts += [bytes([kind]), _varint(len(payload)), payload]
    return b"".join(parts)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise FormatError(f"truncated: {what} needs {count} bytes, {self.left} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            b = self.byte(what)
            value |= (b & 0x7F) << shift
            if b < 0x80:
                if shift and not b:
                    break
                return value
        raise FormatError(f"damaged: {what} is not a valid number")


def _read_header(r: _Reader) -> tuple[Header, int, int]:
    if not r.data:
        raise FormatError("empty file")
    if not r.data.startswith(MAGIC[: min(len(r.data), len(MAGIC))]):
        raise FormatError("not a .nic file")
    r.take(len(MAGIC), "magic")
    if (version := r.byte("version")) != VERSION:
        raise FormatError(f"format version {version} is unknown; this nicc reads version {VERSION}, update it")
    model: int | str = r.byte("model")
    if model == NAMED_MODEL:
        try:
            model = r.take(r.byte("model name"), "model name").decode()
        except UnicodeDecodeError:
            raise FormatError("damaged: the model's name is not UTF-8") from None
        if not model:
            raise FormatError("damaged: the model's name is empty")
    fingerprint = r.take(FINGERPRINT_BYTES, "fingerprint")
    width, height = r.varint("width"), r.varint("height")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise FormatError(
            f"size {width}x{height} is outside the limits: sides 1 to {MAX_SIDE}, at most {MAX_PIXELS} pixels"
        )
    rate_point, beta, flags = r.byte("rate point"), r.byte("beta"), r.byte("flags")
    if rate_point > LARGEST_RATE_POINT:
        raise FormatError(f"damaged: rate point {rate_point} is above {LARGEST_RATE_POINT}")
    if flags & ~KNOWN_FLAGS:
        raise FormatError(f"flags {flags & ~KNOWN_FLAGS:#04x} are unknown; update nicc")
    checksum = struct.unpack("<I", r.take(4, "symbol checksum"))[0]
    header = Header(model, fingerprint, width, height, rate_point, beta / 255, bool(flags & FLAG_GREY))
    return header, flags, checksum


def read_header(data: bytes) -> tuple[Header, int]:
    """The header at the start of a file, and its flags; `MAX_HEADER` bytes suffice. Raises `FormatError`."""
    header, flags, _ = _read_header(_Reader(data))
    return header, flags


def _take_extra(kind: int, payload: bytes, extras: dict[int, bytes]) -> None:
    """Checks an optional box and adds it to ``extras`` if it is a known one."""
    name = BOX_NAMES.get(kind, f"{kind:#04x}")
    content = payload[4:]
    if len(payload) < 4 or struct.unpack_from("<I", payload)[0] != zlib.crc32(content, zlib.crc32(bytes([kind]))):
        raise FormatError(f"damaged: the checksum of the {name} box does not match")
    if kind in extras:
        raise FormatError(f"damaged: a second {name} box")
    if kind in FLAG_OF_BOX:
        extras[kind] = content


def _check_complete(container: Container, flags: int) -> None:
    """Raises `FormatError` if boxes are missing that the header promises, or there are others."""
    header = container.header
    if header.model == LOSSLESS_MODEL:
        if container.lossless is None:
            raise FormatError("truncated: no lossless box")
        if header.rate_point or header.beta or any(header.fingerprint):
            raise FormatError("damaged: a lossless image has no rate point, beta or fingerprint")
        if {BOX_GRAPHICS, BOX_TEXTURE} & set(container.extras):
            raise FormatError("damaged: a lossless image has no graphics apart and no texture")
    for kind, flag in FLAG_OF_BOX.items():
        if bool(flags & flag) != (kind in container.extras):
            raise FormatError(f"truncated or damaged: the header and the {BOX_NAMES[kind]} box disagree")


def unpack(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Container:
    """Parses a whole file. Raises `FormatError` saying what is wrong, or that it has too many pixels."""
    r = _Reader(data)
    header, flags, checksum = _read_header(r)
    if header.width * header.height > max_pixels:
        raise FormatError(f"{header.width}x{header.height} are more pixels than the limit of {max_pixels}")
    stored = header.model == LOSSLESS_MODEL
    z: bytes | None = None
    networks: bytes | None = None
    lossless: bytes | None = None
    groups: list[Group] = []
    extras: dict[int, bytes] = {}
    boxes: list[Box] = []
    while r.left:
        begin = r.at
        kind = r.byte("box type")
        name = BOX_NAMES.get(kind, f"{kind:#04x}")
        payload = r.take(r.varint(f"length of {name} box"), f"{name} box")
        boxes.append(Box(kind, r.at - begin))
        if kind == BOX_LOSSLESS and stored and lossless is None:
            lossless = payload
        elif kind in (BOX_Z, BOX_NETWORKS) and z is networks is None and not groups and not stored:
            z, networks = (payload, None) if kind == BOX_Z else (None, payload)
        elif kind == BOX_Y and not stored:
            if len(payload) < 4:
                raise FormatError("damaged: a y box is shorter than its checksum")
            groups.append(Group(struct.unpack_from("<I", payload)[0], payload[4:]))
        elif kind & OPTIONAL or kind == BOX_GRAPHICS:
            _take_extra(kind, payload, extras)
        else:
            raise FormatError(f"box {name} is unknown or out of place; the file is damaged or needs a newer nicc")
    if z is networks is None and not stored:
        raise FormatError("truncated: no z box")
    container = Container(header, checksum, z or b"", tuple(groups), extras, lossless, networks, tuple(boxes))
    _check_complete(container, flags)
    return container


def with_checksum(container: Container, z_checksum: int) -> Container:
    """The container with its symbol checksum computed from that of z and those of the groups."""
    checksum = symbol_checksum(container.header, container.extras, z_checksum, container.groups)
    return replace(container, symbol_checksum=checksum)
