"""The script that writes tables into documents."""

from __future__ import annotations

import re

from benchmarks.figures import DOCUMENTS, NAMES, curve_table, replace_blocks, table

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
