"""Encoding on a Dask cluster of real processes, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.cli import many
from tests.cli.test_cli import error, modules_after, run
from tests.conftest import ROOT

pytest.importorskip("distributed")


@pytest.fixture
def cluster(tmp_path):
    """The scheduler's address, and two worker processes without nannies, so that a killed one stays dead."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = []

    def start(module, *arguments):
        command = [sys.executable, "-m", module, *arguments]
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log))
        return started[-1]

    file = tmp_path / "scheduler.json"
    start("distributed.cli.dask_scheduler", "--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0",
          "--no-dashboard", "--no-show")  # fmt: skip
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, (tmp_path / "0.log").read_text()
        time.sleep(0.1)
    options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(file)]
    workers = [start("distributed.cli.dask_worker", *options) for _ in range(2)]
    yield json.loads(file.read_text())["address"], workers
    for process in started:
        process.kill()
        process.wait()


def slow(job):
    """A job that says where it begins, and takes long enough to be interrupted."""
    with (job.output.parent.parent / "begun").open("a") as f:
        f.write(f"{job.source.name} {os.getpid()}\n")
    time.sleep(0.5)
    job.output.write_bytes(job.source.read_bytes())
    return many.Done(1, 1, 1)


def test_nothing_is_lost_with_a_worker(cluster, tmp_path, capsys):
    address, workers = cluster
    (tmp_path / "in").mkdir()
    for n in range(12):
        (tmp_path / "in" / f"{n}.txt").write_text(str(n))
    tasks = many.plan([str(tmp_path / "in")], str(tmp_path / "out"), {".txt"}, ".bin", False, False)
    begun = tmp_path / "begun"
    begun.touch()

    def kill():
        while f" {workers[0].pid}\n" not in begun.read_text():
            time.sleep(0.02)
        workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    many.run(slow, tasks, 1, False, address)
    killer.join(10)
    assert workers[0].wait(10) == -signal.SIGKILL
    names = [line.split()[0] for line in begun.read_text().splitlines()]
    assert len(names) > len(set(names)) == 12  # what was lost with the worker was done again
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {f"{n}.bin": str(n) for n in range(12)}
    assert "12 files, " in capsys.readouterr().err


def test_the_command_encodes_on_the_cluster(cluster, tmp_path, coffee):
    (tmp_path / "in").mkdir()
    for n in range(3):
        coffee.crop((60 * n, 50, 60 * n + 64, 114)).save(tmp_path / "in" / f"{n}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    done = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--dask", cluster[0], "-q", 20)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert any("broken.png: not an image" in line for line in lines)
    assert lines[-1] == "nicc: 1 of 4 files failed"
    for n in range(3):
        decoded = np.asarray(nicc.decode((tmp_path / "out" / f"{n}.nic").read_bytes()))
        assert decoded.shape == (64, 64, 3)


def test_without_the_option_nothing_of_it_is_imported(tmp_path, coffee):
    coffee.resize((40, 40)).save(tmp_path / "a.png")
    assert not modules_after("encode", tmp_path / "a.png") & {"dask", "distributed"}


def test_a_cluster_that_is_not_there(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert "no Dask scheduler answers" in error(run("encode", tmp_path / "a.png", "--dask", "tcp://127.0.0.1:9"))
