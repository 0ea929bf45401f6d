"""The commands as a person runs them: real processes, exit codes, standard error."""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import nicc
from nicc.cli import app
from tests.conftest import GOLDEN, ROOT, psnr

SAMPLE = next(GOLDEN.glob("two-layer-coffee*.nic"))


def run(*arguments, stdin: bytes = b"", cwd=None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "nicc", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, timeout=120, check=False)


def error(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a failed command prints."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1, done.stderr.decode()
    assert len(lines) == 1
    assert lines[0].startswith("nicc: ")
    return lines[0]


@pytest.fixture
def photo(tmp_path, coffee) -> Path:
    path = tmp_path / "photo.png"
    coffee.resize((150, 100)).save(path)
    return path


def test_encode_decode_and_info(photo, tmp_path):
    done = run("encode", photo, "-q", 40, "--model", "jpeg-like", "-v")
    assert done.returncode == 0, done.stderr.decode()
    assert b"150x100" in done.stderr
    assert b"estimated" in done.stderr
    coded = tmp_path / "photo.nic"
    assert run("decode", coded, "-o", tmp_path / "back.png").returncode == 0
    assert psnr(Image.open(photo), Image.open(tmp_path / "back.png")) > 28
    facts = json.loads(run("info", coded, "--json").stdout)
    assert {
        "model", "fingerprint", "width", "height", "rate_point", "lambda", "beta", "bytes", "bpp", "boxes",
        "decoder_macs_per_pixel",
    } <= set(facts)  # fmt: skip
    assert facts["model"] == "jpeg-like"
    assert facts["rate_point"] == 25
    assert facts["lambda"] == pytest.approx(0.00651, abs=1e-5)
    assert facts["bytes"] == coded.stat().st_size
    assert facts["bpp"] == pytest.approx(facts["bytes"] * 8 / 15000, abs=1e-4)
    assert [b["type"] for b in facts["boxes"]] == ["z", "y"]
    assert facts["decoder_macs_per_pixel"]["total"] < 6000
    text = run("info", coded).stdout.decode()
    assert "rate point   25" in text
    assert "MAC/pixel" in text


def test_pipes(photo):
    coded = run("encode", "-", stdin=photo.read_bytes())
    assert nicc.inspect(coded.stdout).width == 150
    decoded = run("decode", "-", stdin=coded.stdout)
    assert Image.open(io.BytesIO(decoded.stdout)).size == (150, 100)
    assert run("info", "-", stdin=coded.stdout).returncode == 0


def test_nothing_is_overwritten_without_force(photo, tmp_path):
    target = tmp_path / "out.nic"
    target.write_text("precious")
    assert "exists; overwrite it with --force" in error(run("encode", photo, "-o", target))
    assert target.read_text() == "precious"
    assert run("encode", photo, "-o", target, "--force").returncode == 0
    assert "exists" in error(run("decode", target, "-o", photo))


def test_output_may_be_a_folder_or_another_format(photo, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    assert run("encode", photo, "-o", folder, "--quiet").stderr == b""
    assert run("decode", folder / "photo.nic", "-o", tmp_path / "x.webp").returncode == 0
    assert Image.open(tmp_path / "x.webp").format == "WEBP"
    assert "cannot write the type" in error(run("decode", folder / "photo.nic", "-o", tmp_path / "x.docx"))
    assert "no such folder" in error(run("decode", folder / "photo.nic", "-o", tmp_path / "none" / "x.png"))


def test_sixteen_bits_warn(tmp_path):
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(tmp_path / "deep.png")
    done = run("encode", tmp_path / "deep.png")
    assert done.returncode == 0
    assert b"warning: 16 bits" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "none.nic"], "none.nic: No such file"),
        (["decode", "."], ".: no file of a known type: .nic"),
        (["encode", "none.png"], "none.png: No such file"),
        (["encode", str(SAMPLE), "-o", "x.nic"], "not an image"),
        (["encode", str(SAMPLE.with_suffix(".png")), "-o", "x.nic", "--model", "nonesuch"], "available: jpeg-like"),
        (["train", "nonesuch", "--data", "."], "no such configuration"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path):
    assert message in error(run(*arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["encode"], ["encode", "a", "-q", "101"], ["decode", "a", "--speed"], ["fly"]])
def test_wrong_usage_exits_with_two(arguments):
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"just some text", "not a .nic file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not a .nic file"),
    ],
)
def test_files_of_other_kinds_are_refused(content, message, tmp_path):
    (tmp_path / "x.nic").write_bytes(content)
    assert message in error(run("decode", tmp_path / "x.nic"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.nic"]


def test_a_missing_model_folder_is_one_line(tmp_path):
    script = "import nicc.model, sys; nicc.model.model_folders = lambda: []; from nicc.cli import main; main()"
    command = [sys.executable, "-c", script, "decode", str(SAMPLE), "-o", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert "available: none" in error(done)
    assert not (tmp_path / "x.png").exists()


def modules_after(*arguments: object) -> set[str]:
    """Packages, and modules of nicc, that a fresh process has loaded after a command."""
    script = (
        "import contextlib, json, sys; from nicc.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(json.dumps([m if m.startswith('nicc.') else m.split('.')[0] for m in sys.modules]))"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return set(json.loads(subprocess.run(command, capture_output=True, check=True).stdout.splitlines()[-1]))


def test_decoding_imports_nothing_heavy(tmp_path):
    loaded = modules_after("decode", SAMPLE, "-o", tmp_path / "x.png")
    assert {"numpy", "nicc.cli.decode"} <= loaded
    assert not {name for name in loaded if name.startswith(("nicc.encoder", "nicc.cli.encode", "nicc.cli.bench"))}
    assert not loaded & {"torch", "compressai", "matplotlib", "scipy", "torchvision"}


def test_encoding_imports_torch_only_to_iterate(photo):
    plain = modules_after("encode", photo)
    assert "numpy" in plain
    assert not plain & {"torch", "compressai", "matplotlib", "scipy", "torchvision"}
    iterated = modules_after("encode", photo, "--force", "--sga-steps", "1")
    assert "torch" in iterated
    assert "compressai" not in iterated


def test_version_and_help():
    version = run("--version").stdout.decode()
    assert version.startswith(f"nicc {nicc.__version__}, models: jpeg-like ")
    assert "two-layer " in version
    for command in ("encode", "decode", "info", "models", "train", "bench"):
        assert command in run("--help").stdout.decode()


def test_models_are_listed(tmp_path):
    found = {m["name"]: m for m in json.loads(run("models", "--json").stdout)}
    assert set(found) == {"jpeg-like", "pyramid", "two-layer", "two-layer-visual"}
    assert all(1000 < m["macs_per_pixel"] <= 9000 and m["licence"] == "MIT" for m in found.values())
    assert "rate points 0 to 63" in run("models").stdout.decode()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.json").write_text("{}")
    command = [sys.executable, "-m", "nicc", "models"]
    env = {**os.environ, "NICC_MODELS": str(tmp_path)}
    lines = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout.splitlines()
    assert lines[0].startswith("broken: ")
    assert "damaged" in lines[0]
    assert len(lines) == 5


def test_the_command_line_is_documented():
    """docs/cli.md, made by `make cli-docs`, has every command, option and help text, and no others."""
    text = html.unescape((ROOT / "docs" / "cli.md").read_text())
    top = typer.main.get_command(app)
    options = set()
    for name, command in top.commands.items():
        assert f"## `nicc {name}`" in text
        for parameter in command.params:
            assert (parameter.help or "") in text, parameter.name
            options |= {o for o in (*parameter.opts, *parameter.secondary_opts) if o.startswith("-")}
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", " ".join(re.findall(r"^\* `(-[^`]*)`", text, re.M))))
    general = {"--help", "--version", "--install-completion", "--show-completion"}
    assert documented - general == options - general


def test_completion_can_be_installed():
    command = f"{sys.executable} -m nicc --show-completion bash; true"  # the parent must be a shell
    shown = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert b"_NICC_COMPLETE" in shown.stdout or b"COMPLETE" in shown.stdout


def test_iterating_and_targets(photo, tmp_path):
    plain, iterated, sized = (tmp_path / f"{n}.nic" for n in ("plain", "iterated", "sized"))
    assert run("encode", photo, "-o", plain, "-q", 20).returncode == 0
    done = run("encode", photo, "-o", iterated, "-q", 20, "--sga-steps", 30, "-v")
    assert b"iterating lowered bits + lambda MSE by" in done.stderr + done.stdout
    assert plain.read_bytes() != iterated.read_bytes()
    assert run("encode", photo, "-o", sized, "--target-size", "1.5kB").returncode == 0
    assert 0.97 * 1500 <= sized.stat().st_size <= 1500
    assert "no rate point reaches 70 dB" in error(run("encode", photo, "-o", tmp_path / "x.nic", "--target-psnr", 70))


@pytest.mark.parametrize(
    "options",
    [
        ["--target-size", "12 parsecs"],
        ["--target-bpp", "-1"],
        ["--target-psnr", "nan"],
        ["--target-size", "20kB", "-q", "3"],
        ["--target-size", "20kB", "--target-bpp", "1"],
        ["--sga-steps", "-1"],
        ["--sga-steps", "99999999"],
        ["--effort", "4"],
        ["--sga-rounding", "dice"],
    ],
)
def test_wrong_options_of_encode_exit_with_two(photo, tmp_path, options):
    done = run("encode", photo, "-o", tmp_path / "x.nic", *options)
    assert done.returncode == 2
    assert not (tmp_path / "x.nic").exists()
    assert b"Traceback" not in done.stderr
