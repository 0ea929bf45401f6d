"""The script that writes tables into documents."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.figures import DOCUMENTS, NAMES, between, curve_table, high_quality, replace_blocks, table

TEXT = "before\n<!-- figures: one -->\nold\ntable\n<!-- end -->\nbetween\n<!-- figures: two -->\n<!-- end -->\nafter\n"


def test_blocks_are_replaced_and_the_rest_stays():
    new, used = replace_blocks(TEXT, {"one": "| new |\n", "three": "nowhere"})
    assert used == {"one"}
    assert new == TEXT.replace("old\ntable", "| new |")
    assert replace_blocks(new, {"one": "| new |"})[0] == new


def test_every_place_in_the_documents_is_closed():
    for document in DOCUMENTS:
        text = document.read_text()
        assert len(re.findall("<!-- figures: ", text)) == len(re.findall("<!-- end -->", text)), document


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    found = {"webp": {"quality": [5, 9], "results": {"bpp": [0.1, 0.2], "ssimulacra2": [10.0, 20.0]}}}
    lines = curve_table(found).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"| {NAMES['webp']} | 5 | 0.1 | 10 |")
    assert lines[3].startswith("|  | 9 | 0.2 | 20 |")


def test_high_qualities_alone():
    """Of one codec whose files are a fifth smaller from 75 on and twice as large below."""
    quality = np.array([30.0, 60.0, 74.9, 75.0, 80.0, 88.0])
    anchor = 0.1 * np.exp(quality / 30)
    ours = anchor * np.where(quality < 75, 2, 0.8)
    found = {}
    for codec, rates in (("avif-444", anchor), ("nicc-two-layer-visual", ours)):
        photos = [
            {"name": name, "bpp": r * factor, "ssimulacra2": q}
            for name, factor in (("a.png", 1.0), ("b.png", 1.5))
            for q, r in zip(quality, rates, strict=True)
        ]
        results = {"bpp": (1.25 * rates).tolist(), "ssimulacra2": quality.tolist()}
        found[codec] = {"images": photos, "results": results}
    part = between(found["avif-444"]["results"], "ssimulacra2", 75, 90)
    assert min(part["ssimulacra2"]) == 75
    assert max(part["ssimulacra2"]) == 88
    assert part["bpp"][0] == pytest.approx(1.25 * anchor[3])
    said = high_quality(found).replace("\n", " ")
    rates = [float(rate) for rate in re.findall(r"([+-][\d.]+) %", said)]
    assert len(rates) == 3
    assert rates == pytest.approx([-20] * 3, abs=1)  # the curve through the step is not quite that on either side
    assert "Quality 100 is at 88.0 in the mean, 88.0 at least" in said
