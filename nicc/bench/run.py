"""A benchmark run: which measurements are missing, and making them in several processes.

Every measurement is one line of ``OUT/measurements.jsonl``, written when it is finished, with all
that it depends on: the image's pixels, the codec's identity (versions, settings, weights), and the
quality. A later run makes only those that are not there yet.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nicc.bench import codecs, metrics, timing
from nicc.container import BOX_ALPHA
from nicc.errors import ImageError, NiccError
from nicc.images import from_image, open_image, write_atomically
from nicc.processes import end_with_parent, interrupts_held

MEASUREMENTS = "measurements.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What to measure, and how."""

    source: Path
    out: Path
    codecs: tuple[str, ...]
    metrics: tuple[str, ...] = metrics.ALL
    backbone: Path | None = None
    points: int = 8
    """Qualities per codec."""
    jobs: int = 1
    repeats: int = 3
    timing_images: int = 2
    """Images, spread evenly over the folder, on which times are taken; 0 for none."""
    page_images: int = 3
    """Images whose reconstructions go into the report's viewer."""


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


@dataclass
class Results:
    """What a run has measured; ``problems`` make its exit status 1, ``notes`` do not."""

    settings: Settings
    sources: list[Source]
    codecs: list[codecs.Codec] = field(default_factory=list)
    metrics: tuple[str, ...] = ()
    quality: list[Record] = field(default_factory=list)
    times: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


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


def pick(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """``count`` of the values, spread evenly, the first and the last among them."""
    if count >= len(values):
        return values
    index = np.linspace(0, len(values) - 1, count).round().astype(int) if count > 1 else [len(values) // 2]
    return tuple(values[i] for i in index)


def record_key(record: Record) -> tuple[Any, ...]:
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
        self.records: dict[tuple[Any, ...], Record] = {}
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


# --- what a worker process does ---------------------------------------------------------------------


class Worker:
    """Codecs and metrics of one process."""

    def __init__(self, settings: Settings, threads: int) -> None:
        try:
            import torch

            torch.set_num_threads(threads)
        except ImportError:
            pass
        self.settings = settings
        self.meter = metrics.Meter(settings.metrics, settings.backbone)
        self.codecs: dict[str, codecs.Codec] = {}

    def codec(self, name: str) -> codecs.Codec:
        if name not in self.codecs:
            self.codecs[name] = codecs.find(name)
            self.codecs[name].prepare()
        return self.codecs[name]

    def measure(self, name: str, quality: float, source: Source, keep: bool) -> Record:
        """Codes an image once and measures the result; with ``keep``, stores it for the viewer."""
        codec, pixels = self.codec(name), read_pixels(source.path)
        data = codec.encode(pixels, quality)
        decoded = codec.decode(data)
        if decoded.shape != pixels.shape:
            raise NiccError(f"decoded to {decoded.shape[1]}x{decoded.shape[0]}")
        record: Record = {
            "kind": "quality",
            "codec": name,
            "identity": codec.identity(),
            "quality": quality,
            "image": source.key,
            "name": source.name,
            "bytes": len(data),
            "bpp": len(data) * 8 / (source.width * source.height),
            **self.meter.measure(pixels, decoded),
        }
        features = self.meter.patches(decoded)
        if features is not None:
            save_array(features_path(self.settings.out, name, quality, source.key), features)
        if keep:
            path = decoded_path(self.settings.out, codec, quality, source.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data if codec.mime else lossless_webp(decoded))
        return record


def features_path(out: Path, name: str, quality: float, key: str) -> Path:
    return out / "features" / name.replace(os.sep, "_") / f"{quality:g}" / f"{key}.npy"


def decoded_path(out: Path, codec: codecs.Codec, quality: float, key: str) -> Path:
    suffix = codec.mime.split("/")[1] if codec.mime else "webp"
    return out / "decoded" / codec.name.replace(os.sep, "_") / f"{quality:g}" / f"{key}.{suffix}"


def save_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def lossless_webp(pixels: np.ndarray) -> bytes:
    """What browsers show of pixels that they have no codec for."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=2)
    return buffer.getvalue()


_worker: Worker | None = None


def _start_worker(settings: Settings, threads: int) -> None:
    global _worker  # noqa: PLW0603  one per process, made by the pool
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _worker = Worker(settings, threads)


def _work(task: tuple[str, float, Source, bool]) -> Record:
    assert _worker
    return _worker.measure(*task)


# --- the run ----------------------------------------------------------------------------------------

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many measurements are finished and how many there are."""


def run(settings: Settings, report: Report | None = None) -> Results:
    """Measures all that is missing; an interrupt leaves what is finished in ``settings.out``.

    Raises `NiccError` for an empty folder, an unknown codec or an output that cannot be written.
    """
    report = report or (lambda *_: None)
    sources, notes, problems = find_sources(settings.source)
    store = Store(settings.out)
    results = Results(settings, sources, notes=notes, problems=problems)
    meter = metrics.Meter(settings.metrics, settings.backbone)
    results.metrics = meter.available
    results.notes += meter.notes
    for name in settings.codecs:
        codec = codecs.find(name)
        try:
            codec.prepare()
        except codecs.Unavailable as e:
            results.notes.append(f"{name} left out: {e}")
            continue
        codec.qualities = pick(codec.qualities, settings.points)
        results.codecs.append(codec)
    if not results.codecs:
        raise NiccError("none of the codecs can be used here:" + "".join(f"\n  {n}" for n in results.notes))
    _measure_quality(results, meter, store, report)
    if settings.timing_images:
        _measure_times(results, store, report)
    return results


def _measure_quality(results: Results, meter: metrics.Meter, store: Store, report: Report) -> None:
    settings = results.settings
    shown = pick(tuple(range(len(results.sources))), settings.page_images)
    tasks, missing = [], []
    identities = {c.name: c.identity() for c in results.codecs}
    for index, source in enumerate(results.sources):
        keep = settings.page_images > 0 and index in shown
        if meter.with_patches and not features_path(settings.out, "original", 0, source.key).exists():
            features = meter.patches(read_pixels(source.path))
            if features is not None:
                save_array(features_path(settings.out, "original", 0, source.key), features)
        for codec in results.codecs:
            for quality in () if codec.timing_only else codec.qualities:
                task = (codec.name, quality, source, keep)
                tasks.append(task)
                old = store.records.get(("quality", codec.name, identities[codec.name], quality, source.key))
                done = old and all(m in old for m in meter.functions)
                if done and meter.with_patches and min(source.width, source.height) >= metrics.PATCH:
                    done = features_path(settings.out, codec.name, quality, source.key).exists()
                if done and keep:
                    done = decoded_path(settings.out, codec, quality, source.key).exists()
                if not done:
                    missing.append(task)
    finished = len(tasks) - len(missing)
    report("quality", finished, len(tasks))
    for task, outcome in _execute(settings, missing):
        finished += 1
        if isinstance(outcome, Exception):
            results.problems.append(f"{task[2].name}: {task[0]} at quality {task[1]:g}: {outcome}")
        else:
            store.add(outcome)
        report(f"{task[0]} {task[2].name}", finished, len(tasks))
    for name, quality, source, _ in tasks:
        record = store.records.get(("quality", name, identities[name], quality, source.key))
        if record:
            results.quality.append({**record, "name": source.name})


def _execute(
    settings: Settings, tasks: list[tuple[str, float, Source, bool]]
) -> Iterator[tuple[tuple[str, float, Source, bool], Record | Exception]]:
    """Outcomes of tasks as they finish."""
    if not tasks:
        return
    processors = os.cpu_count() or 1
    jobs = min(settings.jobs, len(tasks))
    if jobs == 1:
        worker = Worker(settings, processors)
        for task in tasks:
            try:
                yield task, worker.measure(*task)
            except Exception as e:  # whatever a codec's library raises: one line, and go on
                yield task, e
        return
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start_worker, initargs=(settings, max(1, processors // jobs))
    )
    try:
        with interrupts_held():
            waiting = {pool.submit(_work, task): task for task in tasks}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if error and not isinstance(error, Exception):
                    raise error
                yield waiting.pop(future), error if isinstance(error, Exception) else future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _measure_times(results: Results, store: Store, report: Report) -> None:
    """Times, taken by this process alone after all else is done, and peak memory of fresh processes."""
    settings = results.settings
    sources = pick(tuple(range(len(results.sources))), settings.timing_images)
    chosen = [results.sources[int(i)] for i in sources]
    todo = [(c, q, s) for c in results.codecs for q in c.qualities for s in chosen]
    for finished, (codec, quality, source) in enumerate(todo):
        report(f"timing {codec.name}", finished, len(todo))
        key = ("times", codec.name, codec.identity() + timing.machine(), quality, source.key)
        record = store.records.get(key)
        if not record or record["repeats"] < settings.repeats:
            pixels = read_pixels(source.path)
            try:
                taken = timing.take(codec, pixels, quality, settings.repeats)
                memory = timing.memory(codec, pixels, quality) if quality == codec.qualities[-1] else {}
            except Exception as e:  # as above
                results.problems.append(f"{source.name}: timing {codec.name} at quality {quality:g}: {e}")
                continue
            record = {"kind": key[0], "codec": key[1], "identity": key[2], "quality": quality, "image": source.key}
            record |= {"name": source.name, "megapixels": source.megapixels, "repeats": settings.repeats}
            record |= {"measured": time.strftime("%Y-%m-%d"), **taken, **memory}
            store.add(record)
        results.times.append(record)
        if codec.decoder_kmac is None and hasattr(codec, "count_macs"):
            codec.count_macs(read_pixels(source.path))
    report("timing", len(todo), len(todo))
