"""The same pixels on one machine, whatever threads the caller has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits

import nicc
from nicc import threads
from nicc.decoder import decode as decoder
from nicc.threads import one_blas_thread
from tests.conftest import MODELS, ROOT

CHILD = """
import sys, zlib
import numpy as np
from PIL import Image
import nicc
nicc.register()
for path in sys.argv[1:]:
    betas = [0.0, 0.7] if "two-layer" in path else [0.0]
    for image in nicc.decode_all(open(path, "rb").read(), betas):
        print(zlib.crc32(np.asarray(image)))
print(zlib.crc32(np.asarray(Image.open(path))))
"""


@pytest.fixture(scope="module")
def files(coffee, tmp_path_factory):
    """Files of all models at two qualities; large enough that BLAS would share its work."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for model in MODELS:
        for quality in (8, 60):
            path = folder / f"{model}-{quality}.nic"
            path.write_bytes(nicc.encode(coffee.crop((0, 0, 600, 256)), model=model, quality=quality))
            paths.append(path)
    return paths


def test_threads_of_blas_do_not_change_pixels(files, tmp_path):
    def run(arguments, count, core):
        settings = {"OPENBLAS_NUM_THREADS": count, "PYTHONPATH": str(ROOT)} | (
            {"OPENBLAS_CORETYPE": core} if core else {}
        )
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for core, counts in (("", "14"), ("Haswell", "14")):  # the kernels in which the difference was first seen
        library = {run(["-c", CHILD, *map(str, files)], count, core) for count in counts}
        assert len(library) == 1
        assert len(library.pop().split()) == 2 * (2 + 2 + 1) + 1
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        run(["-m", "nicc", "decode", *map(str, files), "-o", str(out), "--quiet", "-j", jobs], jobs, "")
    for path in files:
        expected = np.asarray(nicc.decode(path.read_bytes()))
        for jobs in ("1", "2"):
            with Image.open(tmp_path / jobs / f"{path.stem}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_processors_do_not_change_pixels(files, monkeypatch):
    data = files[1].read_bytes()
    expected = np.asarray(nicc.decode(data))
    for count in (1, 3, 8):
        monkeypatch.setattr(decoder, "bands_at_once", lambda count=count: count)
        monkeypatch.setattr(threads, "processors", lambda count=count: count)
        threads.pool.cache_clear()
        np.testing.assert_array_equal(np.asarray(nicc.decode(data)), expected)
    threads.pool.cache_clear()


def blas_threads() -> list[int]:
    """Of the library that NumPy uses; SciPy brings another."""
    used = [x for x in threadpool_info() if x["user_api"] == "blas" and "numpy" in x["filepath"]]
    return [library["num_threads"] for library in used]


def test_the_limit_ends_with_the_last_block():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(30)

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert before
        thread = threading.Thread(target=other)
        with one_blas_thread():
            thread.start()
            assert inside.wait(30)
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}  # the other one still works
        leave.set()
        thread.join()
        assert blas_threads() == before


def test_an_error_ends_the_limit():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with pytest.raises(KeyError), one_blas_thread():
            raise KeyError
        assert blas_threads() == before


def test_the_environment_is_left_alone(files):
    before = dict(os.environ)
    nicc.decode(files[0].read_bytes())
    assert dict(os.environ) == before
