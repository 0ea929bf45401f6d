"""Finished measurements and what belongs to them, in the folder of results."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from nicc.bench.codecs import Codec
from nicc.errors import NiccError
from nicc.images import write_atomically

MEASUREMENTS = "measurements.jsonl"
Record = dict[str, Any]
"""One measurement."""
Key = tuple[Any, ...]
"""What a measurement is of: kind, codec, its identity, quality, image."""


def record_key(record: Record) -> Key:
    return record["kind"], record["codec"], record["identity"], record["quality"], record["image"]


class Store:
    """The file of finished measurements."""

    def __init__(self, out: Path) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            self.file = (out / MEASUREMENTS).open("a+")
        except OSError as e:
            raise NiccError(f"{out}: cannot be written: {e.strerror}") from None
        self.file.seek(0)
        self.records: dict[Key, Record] = {}
        for line in self.file:
            try:
                record = json.loads(line)
                self.records[record_key(record)] = record
            except (ValueError, KeyError):
                continue  # the last line of a run that was killed

    def add(self, record: Record) -> None:
        self.records[record_key(record)] = record
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()


def features_path(out: Path, name: str, quality: float, key: str) -> Path:
    return out / "features" / name.replace(os.sep, "_") / f"{quality:g}" / f"{key}.npy"


def decoded_path(out: Path, codec: Codec, quality: float, key: str) -> Path:
    suffix = codec.mime.split("/")[1] if codec.mime else "webp"
    return out / "decoded" / codec.name.replace(os.sep, "_") / f"{quality:g}" / f"{key}.{suffix}"


def save_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
