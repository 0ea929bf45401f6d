"""Golden files: the same symbols everywhere, the same pixels to within one level."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.container import unpack
from nicc.decoder.decode import decode_pixels, group_latents, model_for
from nicc.decoder.hyper import dequantise_z, read_z
from nicc.decoder.latents import read_group
from nicc.decoder.render import Renderer, synthesise
from nicc.geometry import Grid
from nicc.model import Model
from tests.conftest import GOLDEN, ROOT

FILES = sorted(GOLDEN.glob("*.nic"))
FACTS = json.loads((GOLDEN / "facts.json").read_text())

CHILD = """
import json, sys
from pathlib import Path
from tests.decoder.test_exact import facts
print(json.dumps({f.name: facts(f.read_bytes()) for f in map(Path, sys.argv[1:])}))
"""


def facts(data: bytes) -> dict:
    """What a file's symbols are as decoded here: of z and of every group of rows, a checksum and the sum of sizes."""
    container = unpack(data)
    model = model_for(container)
    header, grid = container.header, Grid.of(container.header)
    z = read_z(model, header, container.z, grid)
    decoded = [z]
    for rows, group in zip(grid.row_groups(), container.groups, strict=True):
        symbols, _ = read_group(model, header, dequantise_z(model, header.rate_point, z), group.stream, rows, grid.w)
        decoded.append(symbols)
    return {
        "checksums": [zlib.crc32(np.ascontiguousarray(s, "<i2").data) for s in decoded],
        "magnitudes": [int(np.abs(s.astype(np.int64)).sum()) for s in decoded],
    }


def test_there_are_golden_files_of_all_models():
    assert {nicc.inspect(f.read_bytes()).model for f in FILES} == {1, 2, 3}
    assert len({nicc.inspect(f.read_bytes()).rate_point for f in FILES}) >= 3
    assert max(len(facts["magnitudes"]) for facts in FACTS.values()) >= 3  # z and several groups of rows
    assert set(FACTS) == {f.name for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_symbols_and_pixels(path):
    data = path.read_bytes()
    assert facts(data) == FACTS[path.name]
    with Image.open(path.with_suffix(".png")) as reference:
        difference = np.asarray(nicc.decode(data), int) - np.asarray(reference, int)
    assert np.abs(difference).max() <= 1


def processor_features() -> dict[str, bool]:
    """What NumPy finds in this processor, by NumPy's names."""
    core = importlib.import_module("numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core")
    return core._multiarray_umath.__cpu_features__


@pytest.mark.parametrize(("kernel", "feature"), [("Nehalem", "SSE42"), ("Haswell", "AVX2"), ("SkylakeX", "AVX512_SKX")])
def test_kernels_of_the_matrix_products_do_not_matter(kernel, feature):
    """They add in different orders. OpenBLAS runs the kernel that it is told to, whatever the processor has."""
    if not processor_features().get(feature):
        pytest.skip(f"this processor has no {feature}")
    env = {**os.environ, "OPENBLAS_CORETYPE": kernel, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, *map(str, FILES)]
    done = subprocess.run(command, env=env, capture_output=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == FACTS


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_double_precision_decodes_the_same_symbols(path):
    container = unpack(path.read_bytes())
    single = model_for(container)
    double = Model(single.description, single.arrays, single.folder, exact_dtype=np.float64)
    assert double.params["row3_in"].dtype == np.float64
    for a, b in zip(group_latents(double, container), group_latents(single, container), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(decode_pixels(container, double).astype(int) - decode_pixels(container, single)).max() <= 1


def test_a_group_can_be_decoded_alone(coffee):
    tall = coffee.resize((80, 2200))
    container = unpack(nicc.encode(tall, quality=24, tune="psnr"))
    model = model_for(container)
    header, grid = container.header, Grid.of(container.header)
    assert len(container.groups) == 3
    z = dequantise_z(model, header.rate_point, read_z(model, header, container.z, grid))
    whole = np.concatenate(list(group_latents(model, container)))
    _, last = read_group(model, header, z, container.groups[2].stream, (128, grid.h), grid.w)
    np.testing.assert_array_equal(last, whole[128:])
    for beta in (0.0, 1.0):
        renderer = Renderer(model, header.rate_point, beta)
        at_once = synthesise(renderer, [whole], header.width, header.height)
        assert np.abs(decode_pixels(container, beta=beta).astype(int) - at_once).max() <= 1
        for rows in (1, 3, 64):  # groups of any size are joined without a seam; the first is mirrored at the top
            begin = max(rows, renderer.margin)
            pieces = [whole[:begin], *(whole[i : i + rows] for i in range(begin, grid.h, rows))]
            assert np.abs(synthesise(renderer, pieces, header.width, header.height).astype(int) - at_once).max() <= 1
