"""The report in a real browser."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from nicc.cli import app
from tests.conftest import wait_for_images


@pytest.fixture
def page(tmp_path, astronaut, coffee):
    folder = tmp_path / "photos"
    folder.mkdir()
    astronaut.crop((100, 0, 292, 176)).save(folder / "a.png")
    coffee.crop((200, 100, 370, 300)).save(folder / "b<!--<script>.png")
    arguments = ["bench", folder, "-o", tmp_path / "out", "--codec", "nicc-two-layer,jpeg,avif-444", "--points", 3]
    arguments += ["--metric", "psnr-rgb", "--timing-images", 1, "--repeats", 1, "-j", 1, "--page-images", 2]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return tmp_path / "out" / "report.html"


def test_page(browser, page, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    browser.get(page.as_uri())
    wait_for_images(browser)

    def find(name):
        return browser.find_element(By.ID, name)

    def natural(side):
        return browser.execute_script(
            f"const i = document.getElementById('image-{side}'); return [i.naturalWidth, i.naturalHeight]"
        )

    rows = browser.find_elements(By.CSS_SELECTOR, "#summary tr")
    assert [r.text.split()[0] for r in rows[1:]] == ["nicc-two-layer", "jpeg", "avif-444"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 2
    assert natural("left") == natural("right") == [192, 176]
    assert find("caption-left").text.startswith("nicc-two-layer: ")
    assert find("caption-right").text.startswith("jpeg: ")

    # another image, AVIF bytes shown as they are, the original
    Select(find("image")).select_by_index(1)
    Select(find("left")).select_by_visible_text("avif-444")
    Select(find("right")).select_by_visible_text("original")
    wait_for_images(browser)
    assert natural("left") == natural("right") == [170, 200]
    assert find("caption-right").text == "original"

    # more bits: a larger file of the same codec
    def bits():
        return float(find("caption-left").text.split(": ")[1].split(" bpp")[0])

    few = bits()
    slider = find("rate")
    slider.send_keys(Keys.END)
    wait_for_images(browser)
    assert bits() > 2 * few

    # drag, keys, zoom
    canvas = find("canvas")
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(-51, 0).release().perform()
    assert float(find("divider").value_of_css_property("left").removesuffix("px")) == pytest.approx(85 - 51, abs=2)
    assert canvas.get_attribute("aria-valuenow") == "20"
    clip = browser.execute_script("return document.getElementById('image-left').style.clipPath")
    assert clip.startswith("inset(0")
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert canvas.get_attribute("aria-valuenow") == "22"
    Select(find("zoom")).select_by_visible_text("2")
    assert canvas.size == {"width": 340, "height": 400}

    # nothing came from a network, and nothing went wrong
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [r for r in requests if not r.startswith(("data:", "file:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.save_screenshot(str(tmp_path / "page.png"))
