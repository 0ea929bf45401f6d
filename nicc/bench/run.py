"""A benchmark run: which measurements are missing, and making them in several processes.

Every measurement is one line of ``OUT/measurements.jsonl``, written when it is finished, with all
that it depends on: the image's pixels, the codec's identity (versions, settings, weights), and the
quality. A later run makes only those that are not there yet.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nicc.bench import codecs, metrics, timing
from nicc.bench.sources import Source, find_sources, lossless_webp, read_pixels
from nicc.bench.store import Key, Record, Store, decoded_path, features_path, save_array
from nicc.errors import NiccError
from nicc.images import write_atomically
from nicc.processes import end_with_parent, interrupts_held, interrupts_noted
from nicc.threads import processors

PATIENCE = 0.5
"""Seconds after which a waiting run looks whether it has been interrupted."""


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how."""

    source: Path
    out: Path
    codecs: tuple[str, ...]
    metrics: tuple[str, ...] = metrics.ALL
    backbone: Path | None = None
    points: int = 8
    """Qualities per codec."""
    qualities: tuple[float, ...] = ()
    """Those of nicc's models, if not as many as ``points`` of their own."""
    jobs: int = 1
    repeats: int = 3
    timing_images: int = 2
    """Images, spread evenly over the folder, on which times are taken; 0 for none."""
    page_images: int = 3
    """Images whose reconstructions go into the report's viewer."""


@dataclass
class Results:
    """What a run has measured; ``problems`` make its exit status 1, ``notes`` do not."""

    settings: BenchSettings
    sources: list[Source]
    codecs: list[codecs.Codec] = field(default_factory=list)
    metrics: tuple[str, ...] = ()
    quality: list[Record] = field(default_factory=list)
    times: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def pick(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """``count`` of the values, spread evenly, the first and the last among them."""
    if count >= len(values):
        return values
    index = np.linspace(0, len(values) - 1, count).round().astype(int) if count > 1 else [len(values) // 2]
    return tuple(values[i] for i in index)


# --- what a worker process does ---------------------------------------------------------------------


class Worker:
    """Codecs and metrics of one process."""

    def __init__(self, settings: BenchSettings, threads: int) -> None:
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


_worker: Worker | None = None


def _start_worker(settings: BenchSettings, threads: int) -> None:
    global _worker  # noqa: PLW0603  one per process, made by the pool
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _worker = Worker(settings, threads)


def _work(task: Task) -> Record:
    assert _worker
    return _worker.measure(*task)


# --- the run ----------------------------------------------------------------------------------------

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many measurements are finished and how many there are."""


def run(settings: BenchSettings, report: Progress | None = None) -> Results:
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
        own = settings.qualities if isinstance(codec, codecs.NiccCodec) else ()
        codec.qualities = own or pick(codec.qualities, settings.points)
        results.codecs.append(codec)
    if not results.codecs:
        raise NiccError("none of the codecs can be used here:" + "".join(f"\n  {n}" for n in results.notes))
    _measure_quality(results, meter, store, report)
    if settings.timing_images:
        _measure_times(results, store, report)
    return results


class Task(NamedTuple):
    """One measurement of quality."""

    codec: str
    quality: float
    source: Source
    keep: bool
    """Whether the coded image goes into the report's viewer."""


def _measure_quality(results: Results, meter: metrics.Meter, store: Store, report: Progress) -> None:
    settings = results.settings
    shown = pick(tuple(range(len(results.sources))), settings.page_images)
    _keep_patches(results, meter)
    found: list[tuple[Task, codecs.Codec, Key]] = [
        (
            Task(codec.name, quality, source, settings.page_images > 0 and index in shown),
            codec,
            ("quality", codec.name, codec.identity(), quality, source.key),
        )
        for index, source in enumerate(results.sources)
        for codec in results.codecs
        for quality in (() if codec.timing_only else codec.qualities)
    ]
    missing = [task for task, codec, key in found if not _is_done(settings, meter, store.records.get(key), task, codec)]
    finished = len(found) - len(missing)
    report("quality", finished, len(found))
    for task, outcome in _execute(settings, missing):
        finished += 1
        if isinstance(outcome, Exception):
            results.problems.append(f"{task.source.name}: {task.codec} at quality {task.quality:g}: {outcome}")
        else:
            store.add(outcome)
        report(f"{task.codec} {task.source.name}", finished, len(found))
    for task, _, key in found:
        if key in store.records:
            results.quality.append({**store.records[key], "name": task.source.name})


def _keep_patches(results: Results, meter: metrics.Meter) -> None:
    """Stores the originals' patch features, which every codec's are compared with."""
    for source in results.sources:
        path = features_path(results.settings.out, "original", 0, source.key)
        if meter.with_patches and not path.exists():
            features = meter.patches(read_pixels(source.path))
            if features is not None:
                save_array(path, features)


def _is_done(
    settings: BenchSettings, meter: metrics.Meter, record: Record | None, task: Task, codec: codecs.Codec
) -> bool:
    """Whether a record has every metric, and the files that belong to it are there."""
    if not record or any(m not in record for m in meter.functions):
        return False
    source, out = task.source, settings.out
    files = [decoded_path(out, codec, task.quality, source.key)] if task.keep else []
    if meter.with_patches and min(source.width, source.height) >= metrics.PATCH:
        files.append(features_path(out, task.codec, task.quality, source.key))
    return all(path.exists() for path in files)


def _execute(settings: BenchSettings, tasks: list[Task]) -> Iterator[tuple[Task, Record | Exception]]:
    """Outcomes of tasks as they finish."""
    if not tasks:
        return
    jobs = min(settings.jobs, len(tasks))
    if jobs == 1:
        worker = Worker(settings, processors())
        for task in tasks:
            try:
                yield task, worker.measure(*task)
            except Exception as e:  # whatever a codec's library raises: one line, and go on
                yield task, e
        return
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start_worker, initargs=(settings, max(1, processors() // jobs))
    )
    try:
        with interrupts_noted() as interrupt:
            with interrupts_held():
                waiting = {pool.submit(_work, task): task for task in tasks}
            while waiting:
                for future in wait(waiting, PATIENCE, FIRST_COMPLETED).done:
                    error = future.exception()
                    if error and not isinstance(error, Exception):
                        raise error
                    yield waiting.pop(future), error if isinstance(error, Exception) else future.result()
                interrupt()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _measure_times(results: Results, store: Store, report: Progress) -> None:
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
