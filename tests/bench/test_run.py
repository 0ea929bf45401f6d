"""Runs: what they leave behind, what they keep, and what they say about bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nicc.bench import report
from nicc.bench import run as running
from nicc.bench.sources import Source, digest, read_pixels
from nicc.bench.store import MEASUREMENTS
from nicc.cli import app

OFFLINE = ["--metric", "psnr-rgb,ms-ssim-rgb,ssimulacra2"]


def bench(*arguments, expect=0):
    done = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert done.exit_code == expect, (done.output, done.exception)
    return done


@pytest.fixture
def folder(tmp_path, astronaut, coffee):
    """Two photographs of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    astronaut.crop((100, 0, 292, 176)).save(folder / "a.png")
    coffee.crop((200, 100, 370, 300)).save(folder / "b.png")
    (folder / "notes.txt").write_text("not an image, and not meant to be one")
    return folder


def test_what_a_run_leaves_behind(folder, tmp_path):
    out = tmp_path / "out"
    done = bench(folder, "-o", out, "--codec", "nicc-two-layer,jpeg", "--points", 3, "-j", 1, *OFFLINE)
    document = json.loads((out / "results" / "nicc-two-layer.json").read_text())
    assert document["name"] == "nicc-two-layer"
    assert {"psnr-rgb", "ms-ssim-rgb", "bpp", "encoding_time", "decoding_time"} <= set(document["results"])
    assert all(len(v) == 3 for v in document["results"].values())
    assert document["bd_rate"]["psnr-rgb"]["percent"] < -5
    assert document["environment"]["versions"]["pillow"]
    assert all(30 < document["peak_memory_mb"][f"{way}coding_memory"] < 300 for way in ("en", "de"))
    rows = document["images"]
    assert len(rows) == 2 * 3
    first = [r for r in rows if r["quality"] == 0]
    assert document["results"]["bpp"][0] == pytest.approx(np.mean([r["bpp"] for r in first]))
    assert first[0]["bpp"] == pytest.approx(first[0]["bytes"] * 8 / (192 * 176))
    with (out / "summary.csv").open() as f:
        table = list(csv.DictReader(f))
    assert [r["codec"] for r in table] == ["nicc-two-layer"] * 3 + ["jpeg"] * 3
    assert float(table[0]["psnr-rgb"]) == pytest.approx(document["results"]["psnr-rgb"][0])
    for name in ("psnr-rgb", "ms-ssim-rgb", "ssimulacra2", "bd-rate-against-decoding-time"):
        assert (out / "plots" / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (out / "plots" / f"{name}.svg").read_text()
    assert "nicc-two-layer" in done.output


def test_qualities_by_number_are_those_of_niccs_models(folder, tmp_path):
    out = tmp_path / "out"
    arguments = ("--metric", "psnr-rgb", "--points", 2, "--timing-images", 0, "-j", 1)
    bench(folder, "-o", out, "--codec", "nicc-jpeg-like,webp", "--quality", "60,7.5,20", *arguments)
    rows = [json.loads(line) for line in (out / MEASUREMENTS).read_text().splitlines()]
    measured = {codec: {r["quality"] for r in rows if r["codec"] == codec} for codec in ("nicc-jpeg-like", "webp")}
    assert measured["nicc-jpeg-like"] == {7.5, 20, 60}
    assert len(measured["webp"]) == 2
    for wrong in ("", "20,,60", "sharp", "20,101", "-1", "nan"):
        refused = bench(folder, "-o", out, "--codec", "webp", "--quality", wrong, expect=2)
        assert "--quality" in refused.output


def test_finished_work_is_kept_and_changed_codecs_are_done_again(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    settings = running.BenchSettings(folder, out, ("jpeg", "webp"), ("psnr-rgb",), points=2, timing_images=1, repeats=1)
    first = running.run(settings)
    calls = []
    measure = running.Worker.measure

    def counted(self, name, *rest):
        calls.append(name)
        return measure(self, name, *rest)

    monkeypatch.setattr(running.Worker, "measure", counted)
    monkeypatch.setattr(running.timing, "take", lambda *_: pytest.fail("times were taken again"))
    again = running.run(settings)
    assert calls == []
    assert again.quality == first.quality
    assert again.times == first.times

    # a new image: only its measurements; a line cut short by a killed run: only that one
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(folder / "c.png")
    lines = (out / MEASUREMENTS).read_text().splitlines()
    position = next(i for i, line in enumerate(lines) if '"webp"' in line and '"quality": 5' in line)
    lines[position] = lines[position][:40]
    (out / MEASUREMENTS).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(running.timing, "take", lambda *_: {"encoding_time": 1.0, "decoding_time": 1.0})
    assert len(running.run(settings).quality) == 12
    assert sorted(calls) == ["jpeg", "jpeg", "webp", "webp", "webp"]

    # another version of a library: all of its codecs again, no others
    calls.clear()
    codec = running.codecs.pillow.PillowCodec
    identity = codec.identity
    monkeypatch.setattr(codec, "identity", lambda self: identity(self) + "+" * (self.name == "jpeg"))
    running.run(settings)
    assert calls == ["jpeg"] * 6


def test_processes_give_the_same_results(folder, tmp_path):
    def measured(jobs):
        settings = running.BenchSettings(
            folder,
            tmp_path / str(jobs),
            ("nicc-jpeg-like", "webp"),
            ("psnr-rgb",),
            points=2,
            jobs=jobs,
            timing_images=0,
        )
        return running.run(settings)

    serial, parallel = measured(1), measured(2)
    assert len(serial.quality) == 8
    assert serial.quality == parallel.quality
    assert not parallel.problems


def test_interrupt_leaves_what_is_finished(folder, tmp_path):
    out = tmp_path / "out"
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 255, (160, 160, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"n{i}.png")
    command = [sys.executable, "-m", "nicc", "bench", str(folder), "-o", str(out), "--codec", "heic-444,avif-444"]
    process = subprocess.Popen(
        [*command, "--metric", "psnr-rgb", "-j", "2", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # interrupts are ignored in all that a shell without job control starts in the background, tests too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing else is called
    )
    deadline = time.monotonic() + 120
    kept = out / MEASUREMENTS
    while time.monotonic() < deadline and (not kept.exists() or kept.read_text().count("\n") < 5):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goes on from" in errors
    assert "Traceback" not in errors
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    assert 5 <= len(records) < 42 * 16


def test_bad_images_are_reported_and_skipped(folder, tmp_path, astronaut):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 100)
    astronaut.crop((0, 0, 64, 48)).convert("L").save(folder / "grey.png")
    alpha = astronaut.crop((0, 0, 64, 48)).convert("RGBA")
    alpha.putalpha(100)
    alpha.save(folder / "alpha.png")
    arguments = ("--codec", "jpeg,nicc-jpeg-like", "--points", 2, "--timing-images", 0, "-j", 1, *OFFLINE)
    done = bench(folder, "-o", tmp_path / "out", *arguments, expect=1)
    assert "broken.png: skipped" in done.output
    assert "grey.png: grey" in done.output
    assert "alpha.png: alpha" in done.output
    document = json.loads((tmp_path / "out" / "results" / "jpeg.json").read_text())
    assert {r["name"] for r in document["images"]} == {"a.png", "b.png", "alpha.png"} | {"grey.png"}
    small = [r for r in document["images"] if r["name"] == "grey.png"]
    assert all(r["ms-ssim-rgb"] is None for r in small)  # too small for five scales
    assert all(v is not None for v in document["results"]["ms-ssim-rgb"])


def test_a_codec_that_fails_on_an_image(folder, tmp_path, monkeypatch):
    encode = running.codecs.pillow.PillowCodec.encode

    def failing(self, pixels, quality):
        if self.name == "webp" and pixels.shape[0] == 200:
            raise ValueError("no memory for this one")
        return encode(self, pixels, quality)

    monkeypatch.setattr(running.codecs.pillow.PillowCodec, "encode", failing)
    arguments = ("--codec", "jpeg,webp", "--metric", "psnr-rgb", "--points", 2, "--timing-images", 0, "-j", 1)
    done = bench(folder, "-o", tmp_path / "out", *arguments, expect=1)
    assert "b.png: webp at quality 5: no memory for this one" in done.output
    assert "bpp" not in json.loads((tmp_path / "out" / "results" / "webp.json").read_text())["results"]
    assert len(json.loads((tmp_path / "out" / "results" / "jpeg.json").read_text())["results"]["bpp"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["EMPTY"], "no readable image"),
        (["MISSING"], "no such folder"),
        (["FOLDER", "--codec", "gif"], "codec 'gif' is not known"),
        (["FOLDER", "--metric", "vmaf"], "metric vmaf is not known"),
        (["FOLDER", "-o", "FILE"], "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, folder, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("")
    places = {"FOLDER": folder} | {name: tmp_path / name for name in ("EMPTY", "MISSING", "FILE")}
    command = [str(places.get(a, a)) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "nicc", "bench", *command, "--timing-images", "0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("nicc: ")
    assert "Traceback" not in done.stderr


def test_anchor_by_name(folder, tmp_path):
    arguments = (folder, "-o", tmp_path / "out", "--codec", "jpeg,webp", "--metric", "psnr-rgb", "--timing-images", 0)
    bench(*arguments, "--anchor", "webp", "-j", 1)
    document = json.loads((tmp_path / "out" / "results" / "webp.json").read_text())
    assert document["bd_rate"]["psnr-rgb"]["percent"] == pytest.approx(0, abs=1e-9)
    done = bench(*arguments, "--anchor", "hm", "-j", 1, expect=1)
    assert "--anchor hm: no such curve" in done.output


def test_kodak_is_known_by_its_pixels(tmp_path):
    keys = json.loads((files("nicc.bench") / "kodak.json").read_text())["kodak_sha256"]
    sources = [Source(f"{k}.png", tmp_path, k, 768, 512) for k in keys]
    settings = running.BenchSettings(tmp_path, tmp_path, ())
    curves = report.published(running.Results(settings, sources))
    assert {"hevc-hm-444 (published)", "jpeg (published)"} <= {c.name for c in curves}
    assert all(c.published for c in curves)
    assert report.published(running.Results(settings, sources[:-1])) == []


def test_the_photographs_are_those(kodak):
    keys = json.loads((files("nicc.bench") / "kodak.json").read_text())["kodak_sha256"]
    assert [digest(read_pixels(p)) for p in kodak] == keys
