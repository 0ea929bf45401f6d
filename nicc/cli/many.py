"""Several inputs or folders: which files become which, and all of them in processes side by side.

A failure does not stop the rest; a summary is printed at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nicc.cli import files
from nicc.cli.progress import Bar
from nicc.errors import NiccError
from nicc.threads import processors

CONNECT_SECONDS = 10


class Job(NamedTuple):
    """One file to read and one to write."""

    source: Path
    output: Path


class Done(NamedTuple):
    """What one job did: sizes in bytes, pixels, and what a user should know."""

    before: int
    after: int
    pixels: int
    notes: tuple[str, ...] = ()


Work = Callable[[Job], Done]
"""Does one job in another process: a function of a module, with its options bound."""


@dataclass(frozen=True)
class Plan:
    """Jobs, and how many outputs were there already."""

    jobs: list[Job]
    skipped: int


def wanted(sources: Sequence[str]) -> bool:
    """Whether the inputs are many: several, or a folder."""
    return len(sources) > 1 or (len(sources) == 1 and sources[0] != files.PIPE and Path(sources[0]).is_dir())


def plan(
    sources: Sequence[str], output: str | None, suffixes: Collection[str], suffix: str, force: bool, skip: bool
) -> Plan:
    """Finds the files below folders and their outputs, beside them or in ``output`` with the folders' structure.

    ``skip`` leaves out what has an output. Raises `NiccError` for inputs without files, outputs
    that exist or coincide, and standard input among several.
    """
    if files.PIPE in sources:
        raise NiccError("standard input cannot be one of several inputs")
    folder = Path(output) if output else None
    if folder and folder.exists() and not folder.is_dir():
        raise NiccError(f"{folder}: is a file; several outputs need a folder")
    found: dict[Path, Path] = {}
    skipped = 0
    for source, relative in _files(sources, suffixes):
        path = (folder / relative if folder else source).with_suffix(suffix)
        if path == source:
            raise NiccError(f"{source}: the output would be the input; name a folder with -o")
        if path in found:
            raise NiccError(f"{source} and {found[path]} would both become {path}")
        if path.exists() and skip:
            skipped += 1
            continue
        if path.exists() and not force:
            raise NiccError(f"{path}: exists; overwrite with --force or leave out with --skip-existing")
        found[path] = source
    if not found and not skipped:
        raise NiccError(f"{', '.join(sources)}: no file of a known type: {' '.join(sorted(suffixes))}")
    return Plan([Job(source, path) for path, source in found.items()], skipped)


def _files(sources: Sequence[str], suffixes: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Every input file, and its path relative to the folder that was given."""
    for name in sources:
        top = Path(name)
        if top.is_dir():
            for path in sorted(top.rglob("*")):
                if path.suffix.lower() in suffixes and path.is_file():
                    yield path, path.relative_to(top)
        else:
            yield top, Path(top.name)


def run(work: Work, tasks: Plan, processes: int, quiet: bool, cluster: str | None = None) -> None:
    """Does all jobs, here or on a Dask ``cluster``, and prints a summary. Raises `NiccError` if any failed."""
    done: list[Done] = []
    failed = 0
    total = len(tasks.jobs)
    with Bar(not quiet and sys.stderr.isatty(), ["BarColumn", "MofNCompleteColumn", "{task.description}"]) as bar:
        outcomes = _on_cluster(work, tasks.jobs, cluster) if cluster else _outcomes(work, tasks.jobs, processes)
        for job, outcome in outcomes:
            if isinstance(outcome, Done):
                done.append(outcome)
                for note in outcome.notes:
                    files.say(f"nicc: {job.source}: {note}", quiet)
            else:
                failed += 1
                files.say(f"nicc: {job.source}: {outcome}")
            bar.show(len(done) + failed, total, job.source.name)
    before, after, pixels = (sum(getattr(d, name) for d in done) for name in ("before", "after", "pixels"))
    bits = f", {after * 8 / pixels:.3f} bpp coded" if pixels and after < before else ""
    skipped = f", {tasks.skipped} skipped" if tasks.skipped else ""
    files.say(f"{len(done)} files, {before} bytes to {after}{bits}{skipped}, {failed} failed", quiet)
    if failed:
        raise NiccError(f"{failed} of {total} files failed")


def _outcomes(work: Work, jobs: list[Job], processes: int) -> Iterator[tuple[Job, Done | str]]:
    """Every job with what it did, or with why it failed, as they end."""
    processes = min(processes, len(jobs))
    if processes <= 1:
        for job in jobs:
            yield job, _try(work, job)
        return
    # a single file, which is the usual case, need not wait for these to be imported
    from concurrent.futures import Future, ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    share = max(1, processors() // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin_process, (share,)) as pool:
        futures: dict[Future[Any], Job] = {pool.submit(_try, work, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], "a process died, perhaps for want of memory; use fewer with -j"


def _begin_process(threads: int) -> None:
    """For a pool's ``initializer``: before PyTorch is loaded, which takes its number of threads from there."""
    from nicc.processes import end_with_parent

    os.environ["OMP_NUM_THREADS"] = str(threads)
    end_with_parent()


def _on_cluster(work: Work, jobs: list[Job], address: str) -> Iterator[tuple[Job, Done | str]]:
    """`_outcomes` by the workers of a Dask cluster, which must see the same files and have nicc.

    What a lost worker was doing is done again by another, as often as the scheduler allows (3 times).
    """
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError as e:
        raise NiccError(f"--dask needs {e.name}; install it with: pip install 'nicc[dask]'") from None
    jobs = [Job(job.source.resolve(), job.output.resolve()) for job in jobs]
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as e:
        raise NiccError(f"{address}: no Dask scheduler answers: {e}") from None
    with client:
        futures = {client.submit(_try, work, job, pure=False): job for job in jobs}
        for future in completed(list(futures)):
            if future.status == "finished":
                yield futures[future], future.result()
            else:
                yield futures[future], f"not done by the cluster: {future.exception()}"


def _try(work: Work, job: Job) -> Done | str:
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        return work(job)
    except NiccError as e:
        return str(e)
    except MemoryError:
        return "out of memory"
    except OSError as e:
        return str(e.strerror or e)
