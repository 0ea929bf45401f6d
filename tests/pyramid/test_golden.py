"""Golden files of the pyramid: the same networks and symbols everywhere, the same pixels to within one level."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.container import unpack
from nicc.decoder.decode import model_for
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.decode import strip_bounds
from nicc.pyramid.layout import views
from nicc.pyramid.networks import decode_networks
from nicc.pyramid.order import decode_grids
from tests.conftest import ROOT
from tests.decoder.test_exact import processor_features

GOLDEN = Path(__file__).parent / "golden"
FACTS = GOLDEN / "facts.json"
FILES = sorted(GOLDEN.glob("*.nic"))
CHILD = """
import json, sys
from pathlib import Path
from tests.pyramid.test_golden import facts
print(json.dumps({f.name: facts(f.read_bytes()) for f in map(Path, sys.argv[1:])}))
"""


def facts(data: bytes) -> dict:
    """The networks' sum and checksum, and of every strip the checksums and sums of sizes of its grids."""
    container = unpack(data)
    model, header = model_for(container), container.header
    arch = model.architecture
    integers = decode_networks(model.begins(header.rate_point), container.networks)
    network = IntegerNetwork(arch, views(integers, arch.shapes()))
    grids = [
        grid
        for (top, bottom), group in zip(strip_bounds(header.height), container.groups, strict=True)
        for grid in decode_grids(network, arch, (bottom - top, header.width), group.stream[0], group.stream[1:])
    ]
    return {
        "networks": [int(np.abs(integers).sum()), zlib.crc32(integers.astype("<i8").data)],
        "checksums": [zlib.crc32(np.ascontiguousarray(g, "<i2").data) for g in grids],
        "magnitudes": [int(np.abs(g.astype(int)).sum()) for g in grids],
    }


def test_there_are_golden_files():
    assert len(FILES) >= 4
    assert max(len(unpack(f.read_bytes()).groups) for f in FILES) == 2  # strips
    assert {nearest_family(f.read_bytes()) for f in FILES} == {0, 1}


def nearest_family(data: bytes) -> int:
    """The family whose start a file's networks are nearest to."""
    container = unpack(data)
    begins = model_for(container).begins(container.header.rate_point)
    networks = decode_networks(begins, container.networks)
    return int(np.argmin([np.abs(networks - b.start).mean() for b in begins]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_symbols_and_pixels(path):
    assert facts(path.read_bytes()) == json.loads(FACTS.read_text())[path.name]
    with Image.open(path.with_suffix(".png")) as reference:
        difference = np.asarray(nicc.decode(path.read_bytes()), int) - np.asarray(reference, int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("kernel", "feature"), [("Nehalem", "SSE42"), ("Haswell", "AVX2")])
def test_kernels_of_the_matrix_products_do_not_matter(kernel, feature):
    if not processor_features().get(feature):
        pytest.skip(f"this processor has no {feature}")
    env = {**os.environ, "OPENBLAS_CORETYPE": kernel, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, FILES)], env=env, capture_output=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout) == json.loads(FACTS.read_text())
