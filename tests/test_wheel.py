"""The wheel in an empty environment: decodes and encodes without PyTorch, with the newest NumPy."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

import nicc as nicc_here
from tests.conftest import GOLDEN, MODELS, ROOT
from tests.decoder.test_exact import FACTS, FILES


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_contains_the_models(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for model in MODELS:
        for part in ("model.json", "decoder.safetensors", "encoder.safetensors"):
            assert f"nicc/_models/{model}/{part}" in names
    assert not [n for n in names if n.startswith("tests/")]


def test_an_empty_environment_decodes_and_encodes(wheel, tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-compile", str(wheel)], check=True, capture_output=True)
    nicc = tmp_path / "env" / "bin" / "nicc"
    script = """
import json, sys, numpy
from pathlib import Path
from nicc.container import unpack
import nicc
pixels = {f: nicc.decode(Path(f).read_bytes()).tobytes().hex() for f in sys.argv[1:]}
print(json.dumps([numpy.__version__, {Path(f).name: p for f, p in pixels.items()}]))
"""
    done = subprocess.run([python, "-c", script, *map(str, FILES)], check=True, capture_output=True, cwd=tmp_path)
    version, pixels = json.loads(done.stdout)
    assert int(version.split(".")[0]) >= 2
    assert set(pixels) == set(FACTS)
    for path in FILES:
        with Image.open(path.with_suffix(".png")) as reference:
            expected = reference.tobytes()
        got = bytes.fromhex(pixels[path.name])
        assert len(got) == len(expected)
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 1
    sample = GOLDEN / "jpeg-like-coffee-160x120-q40.nic"
    subprocess.run([nicc, "decode", sample, "-o", tmp_path / "x.png"], check=True)
    for model in MODELS:
        encode = [nicc, "encode", tmp_path / "x.png", "--model", model, "-q", "57", "--force"]
        subprocess.run([*encode, "-o", tmp_path / "x.nic"], check=True)
        with Image.open(tmp_path / "x.png") as image:
            assert (tmp_path / "x.nic").read_bytes() == nicc_here.encode(image, model=model, quality=57)
        subprocess.run([*encode, "-o", tmp_path / "better.nic", "--effort", "1"], check=True)
        assert (tmp_path / "better.nic").read_bytes() != (tmp_path / "x.nic").read_bytes()
    failed = subprocess.run([*encode, "--effort", "3"], capture_output=True, check=False, text=True)
    assert failed.returncode == 1
    assert failed.stderr.endswith("iterating needs torch; install it with: pip install 'nicc[iterate]'\n")
    assert failed.stderr.count("\n") == 1
