"""Peak memory of whole processes; larger images: benchmarks/large.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import nicc
from nicc.container import unpack
from nicc.decoder.decode import model_for
from nicc.decoder.limits import MEBI, memory_needed
from tests.conftest import ROOT

PEAK = """
import sys
from nicc.cli import app
app(sys.argv[1:], standalone_mode=False)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peak(*arguments) -> int:
    """Bytes."""
    command = [sys.executable, "-c", PEAK, *map(str, arguments), "--quiet"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}  # as training sets them
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT, env=env)
    return int(done.stdout.split()[-1]) * 1024


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is Linux's own figure")


def test_a_photograph(coffee, tmp_path):
    coffee.resize((768, 512)).save(tmp_path / "a.png")
    assert peak("encode", tmp_path / "a.png") < 250 * MEBI
    container = unpack((tmp_path / "a.nic").read_bytes())
    for beta, limit in ((0.0, 200), (0.5, 450)):
        needed = memory_needed(model_for(container), container.header, [beta])
        taken = peak("decode", tmp_path / "a.nic", "-o", tmp_path / f"{beta}.png", "--beta", beta)
        assert taken < min(needed, limit * MEBI)


def test_what_is_announced_is_enough(coffee, tmp_path):
    """3 megapixels, several groups of rows."""
    tall = Image.new("RGB", (1200, 2400))
    for i in range(12):
        tall.paste(coffee, (i % 2 * 600, i // 2 * 400))
    path = tmp_path / "a.nic"
    path.write_bytes(nicc.encode(tall, quality=40))
    container = unpack(path.read_bytes())
    needed = memory_needed(model_for(container), container.header)
    assert 0.4 * needed < peak("decode", path, "-o", tmp_path / "b.png") < needed
