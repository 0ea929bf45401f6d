"""Several inputs and folders, pipes of other types, several betas: real processes."""

from __future__ import annotations

import io
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import nicc
import nicc.container
from nicc.cli import many
from nicc.errors import NiccError
from tests.cli.test_cli import SAMPLE, error, run
from tests.conftest import GOLDEN


@pytest.fixture
def album(tmp_path, coffee, astronaut):
    """Two photographs in a tree, a text, and a file that only looks like an image."""
    (tmp_path / "album" / "sub").mkdir(parents=True)
    coffee.resize((90, 60)).save(tmp_path / "album" / "coffee.png")
    astronaut.resize((64, 64)).save(tmp_path / "album" / "sub" / "astronaut.jpg", quality=95)
    (tmp_path / "album" / "notes.txt").write_text("no image")
    return tmp_path / "album"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_there_and_back(album, tmp_path, jobs):
    done = run("encode", album, "-o", tmp_path / "coded", "-q", 30, "-j", jobs)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(p.relative_to(tmp_path / "coded").as_posix() for p in (tmp_path / "coded").rglob("*.nic")) == [
        "coffee.nic",
        "sub/astronaut.nic",
    ]
    assert done.stderr.decode().startswith("2 files, ")
    assert "bpp coded, 0 failed" in done.stderr.decode()
    alone = nicc.encode(Image.open(album / "coffee.png"), quality=30)
    assert (tmp_path / "coded" / "coffee.nic").read_bytes() == alone
    done = run("decode", tmp_path / "coded", "-o", tmp_path / "back", "--format", "webp", "-j", jobs)
    assert done.returncode == 0, done.stderr.decode()
    assert Image.open(tmp_path / "back" / "sub" / "astronaut.webp").size == (64, 64)


def test_failures_do_not_stop_the_rest(album, tmp_path):
    (album / "broken.png").write_bytes((album / "coffee.png").read_bytes()[:100])
    done = run("encode", album, "-o", tmp_path / "coded", "-j", 2)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert any("broken.png: " in line for line in lines)
    assert lines[-2].startswith("2 files, ")
    assert lines[-1] == "nicc: 1 of 3 files failed"
    assert len(list((tmp_path / "coded").rglob("*.nic"))) == 2
    assert not list((tmp_path / "coded").rglob("*.tmp"))


def test_what_is_done_can_be_skipped(album):
    assert run("encode", album, "--quiet").returncode == 0
    assert (album / "sub" / "astronaut.nic").exists()
    before = (album / "coffee.nic").read_bytes()
    assert "--skip-existing" in error(run("encode", album))
    (album / "coffee.nic").write_bytes(b"mine")
    (album / "sub" / "astronaut.nic").unlink()
    done = run("encode", album, "--skip-existing")
    assert "1 files" in done.stderr.decode()
    assert "1 skipped, 0 failed" in done.stderr.decode()
    assert (album / "coffee.nic").read_bytes() == b"mine"
    assert run("encode", album, "--force").returncode == 0
    assert (album / "coffee.nic").read_bytes() == before


def test_plans_are_refused_before_anything_is_written(album, tmp_path):
    shutil.copy(album / "coffee.png", album / "coffee.bmp")
    with pytest.raises(NiccError, match="would both become"):
        many.plan([str(album)], None, {".png", ".bmp"}, ".nic", False, False)
    with pytest.raises(NiccError, match="standard input"):
        many.plan([str(album), "-"], None, {".png"}, ".nic", False, False)
    with pytest.raises(NiccError, match="no file of a known type"):
        many.plan([str(album)], None, {".tga"}, ".nic", False, False)
    with pytest.raises(NiccError, match="need a folder"):
        many.plan([str(album)], str(album / "notes.txt"), {".png"}, ".nic", False, False)
    with pytest.raises(NiccError, match="would be the input"):
        many.plan([str(album)], None, {".png"}, ".png", False, False)


def test_a_dead_process_is_a_failed_file(album, tmp_path):
    tasks = many.plan([str(album)], str(tmp_path / "out"), {".png", ".jpg"}, ".nic", False, False)
    with pytest.raises(NiccError, match="2 of 2 files failed"):
        many.run(_die, tasks, 2, True)


def _die(job):
    import os

    os._exit(9)


@pytest.mark.parametrize(("kind", "name"), [("ppm", "PPM"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("PNG", "PNG")])
def test_standard_output_has_any_type(kind, name):
    done = run("decode", "-", "-o", "-", "--format", kind, "--output-quality", 80, stdin=SAMPLE.read_bytes())
    assert done.returncode == 0, done.stderr.decode()
    image = Image.open(io.BytesIO(done.stdout))
    assert (image.format, image.size) == (name, nicc.decode(SAMPLE.read_bytes()).size)


def test_crops_and_thumbnails(tmp_path):
    assert run("decode", SAMPLE, "-o", tmp_path / "a.png", "--crop", "16,8,50,40").returncode == 0
    whole = np.asarray(nicc.decode(SAMPLE.read_bytes())).astype(int)
    part = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(part - whole[8:48, 16:66]).max() <= 1
    assert run("decode", SAMPLE, "-o", tmp_path / "b.png", "--scale", "1/4").returncode == 0
    assert Image.open(tmp_path / "b.png").size == (40, 30)
    assert "is not inside 160x120" in error(run("decode", SAMPLE, "-o", tmp_path / "c.png", "--crop", "0,0,200,10"))


def test_bombs_are_refused(tmp_path):
    """By their headers, before anything is allocated."""
    assert "160x120 are more pixels than the limit of 19199" in error(
        run("decode", SAMPLE, "-o", tmp_path / "x.png", "--max-pixels", 19199)
    )
    picture = SAMPLE.with_suffix(".png")
    assert "more pixels than the limit of 19199" in error(
        run("encode", picture, "-o", tmp_path / "x.nic", "--max-pixels", 19199)
    )
    assert run("decode", SAMPLE, "-o", tmp_path / "x.png", "--max-pixels", 19200).returncode == 0
    header = nicc.container.Header(1, bytes(4), 65535, 16000, 3)
    claim = nicc.container.pack(nicc.container.Container(header, 0, b"", ()))
    with pytest.raises(nicc.FormatError, match="65535x16000 are more pixels than the limit of 178956970"):
        nicc.decode(claim)


def test_files_that_need_too_much_memory_are_refused(tmp_path):
    refused = run("decode", SAMPLE, "-o", tmp_path / "x.png", "--max-memory", "10MiB")
    assert "needs about" in error(refused)
    assert "more than the limit of 10 MiB" in error(refused)
    assert "needs about" in error(run("decode", SAMPLE, "--sheet", tmp_path / "x.png", "--max-memory", "10MiB"))
    wrong = run("decode", SAMPLE, "-o", tmp_path / "x.png", "--max-memory", "much")
    assert wrong.returncode == 2
    assert b"is not a size such as 2GiB" in wrong.stderr
    assert run("decode", SAMPLE, "-o", tmp_path / "x.png", "--max-memory", "2GiB").returncode == 0


def test_output_quality_reaches_the_file(tmp_path):
    for quality in (20, 95):
        assert run("decode", SAMPLE, "-o", tmp_path / f"{quality}.jpg", "--output-quality", quality).returncode == 0
    assert (tmp_path / "20.jpg").stat().st_size * 2 < (tmp_path / "95.jpg").stat().st_size


@pytest.mark.parametrize(
    "options",
    [
        ["--beta", "1.5"],
        ["--beta", "-0.1"],
        ["--beta", "nan"],
        ["--beta", "much"],
        ["--beta", "0,0.5", "-o", "-"],
        ["--original", str(SAMPLE.with_suffix(".png"))],
        ["--output-quality", "101"],
        ["--crop", "1,2,3"],
        ["--crop", "a,b,c,d"],
        ["--scale", "1/3"],
        ["--beta", "0,1", "--scale", "1/2"],
        ["-o", "x.png", "--format", "webp"],
    ],
)
def test_wrong_options_of_decode_exit_with_two(options, tmp_path):
    done = run("decode", SAMPLE, *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_file_at_several_betas(tmp_path):
    done = run("decode", SAMPLE, "-o", tmp_path / "x.png", "--beta", "0,0.5,1")
    assert done.returncode == 0, done.stderr.decode()
    names = [f"x-beta{b}.png" for b in ("0", "0.5", "1")]
    images = [np.asarray(Image.open(tmp_path / n)).astype(int) for n in names]
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    assert np.array_equal(images[0], np.asarray(nicc.decode(SAMPLE.read_bytes())))
    assert all(np.abs(b - a).max() > 0 for a, b in pairwise(images))
    assert "exists" in error(run("decode", SAMPLE, "-o", tmp_path / "x.png", "--beta", "0,1"))
    original = SAMPLE.with_suffix(".png")
    assert run("decode", SAMPLE, "--sheet", tmp_path / "s.png", "--original", original).returncode == 0
    assert Image.open(tmp_path / "s.png").size[0] > 5 * 120
    assert "beta 0 to 1 by a head" in run("info", SAMPLE).stdout.decode()


def test_a_model_without_a_head_refuses_realism(tmp_path):
    sample = next(GOLDEN.glob("jpeg-like-coffee*.nic"))
    assert "no realism head" in error(run("decode", sample, "-o", tmp_path / "x.png", "--beta", "0.5"))
    assert "no realism head" in error(
        run("encode", sample.with_suffix(".png"), "-o", tmp_path / "x.nic", "--model", "jpeg-like", "--beta", "0.5")
    )
    assert run("decode", sample, "-o", tmp_path / "x.png", "--beta", "0").returncode == 0


def test_unknown_output_types_are_refused(tmp_path):
    assert "cannot write the type '.exe'" in error(run("decode", SAMPLE, "-o", "-", "--format", "exe"))


def test_the_sheet_shows_the_same_places():
    from nicc.cli.sheet import CROP, GAP, LABEL, busy_places, contact_sheet

    rng = np.random.default_rng(0)
    flat = np.full((400, 600, 3), 90, np.uint8)
    busy = flat.copy()
    busy[200:360, 320:480] = rng.integers(0, 255, (160, 160, 3))
    assert busy_places(busy, CROP, 1) == [(200, 320)]
    places = busy_places(busy, CROP, 3)
    assert all(abs(a - c) >= CROP or abs(b - d) >= CROP for (a, b), (c, d) in pairwise(places))
    sheet = np.asarray(contact_sheet([("original", busy), ("beta 1", flat)]))
    assert sheet.shape == (LABEL + 3 * (CROP + GAP), GAP + 2 * (CROP + GAP), 3)
    np.testing.assert_array_equal(sheet[LABEL : LABEL + CROP, GAP : GAP + CROP], busy[200:360, 320:480])
    assert (sheet[LABEL : LABEL + CROP, 2 * GAP + CROP : 2 * (GAP + CROP)] == 90).all()
    small = np.asarray(contact_sheet([("a", busy[:40, :50])]))
    assert small.shape == (LABEL + 40 + GAP, 50 + 2 * GAP, 3)
