"""The viewer: what it serves and refuses, and the page in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.viewer.server import Server, load
from tests.cli.test_cli import run
from tests.conftest import GOLDEN, wait_for_images

SAMPLES = [next(GOLDEN.glob(f"{name}-coffee*.nic")) for name in ("two-layer", "jpeg-like")]


@pytest.fixture
def server():
    shown = [load(SAMPLES[0], SAMPLES[0].with_suffix(".png")), load(SAMPLES[1], None)]
    with Server(shown) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_images_are_the_decoders(server):
    assert server.server_address[0] == "127.0.0.1"
    status, body, headers = get(server, f"/{server.word}/image?file=0&beta=0")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), np.asarray(nicc.decode(SAMPLES[0].read_bytes())))
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    facts = json.loads(get(server, f"/{server.word}/facts")[1])
    assert [f["name"] for f in facts] == [s.name for s in SAMPLES]
    assert [f["original"] for f in facts] == [True, False]
    assert facts[0]["bytes"] == SAMPLES[0].stat().st_size
    assert b"<title>nicc view</title>" in get(server, f"/{server.word}/")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/facts",
        "/wrong/facts",
        "/WORD/../../etc/passwd",
        "/WORD/page.html",
        "/WORD/server.py",
        "/WORD/image",
        "/WORD/image?file=0",
        "/WORD/image?file=9&beta=0",
        "/WORD/image?file=-1&beta=0",
        "/WORD/image?file=0&beta=2",
        "/WORD/image?file=0&beta=nan",
        "/WORD/image?file=1&beta=0.5",
        "/WORD/image?file=../secret&beta=0",
        "/WORD/original?file=1",
    ],
)
def test_nothing_else_is_served(server, path):
    status, body, _ = get(server, path.replace("WORD", server.word))
    assert (status, b"root:" in body) == (404, False)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1"])
def test_other_hosts_names_are_refused(server, host):
    assert get(server, f"/{server.word}/facts", host)[0] == 403


def test_other_methods_are_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("POST", f"/{server.word}/facts", b"x")
    assert connection.getresponse().status == 501


def test_the_page(server, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def find(name):
        return browser.find_element(By.ID, name)

    def settled():
        WebDriverWait(browser, 20).until(lambda _: "waiting" not in find("image").get_attribute("class"))
        wait_for_images(browser)
        return browser.execute_script("const i = document.getElementById('image'); return [i.naturalWidth, i.width]")

    def press(key):
        browser.find_element(By.TAG_NAME, "body").send_keys(key)

    browser.get(server.url)
    WebDriverWait(browser, 20).until(lambda _: find("caption").text)
    assert settled() == [160, 160]
    assert "rate point 20" in find("facts").text
    assert find("other").is_displayed()
    press("2")
    assert settled() == [160, 320]
    Select(find("zoom")).select_by_visible_text("400 %")
    assert settled() == [160, 640]
    press("o")
    assert not find("other").is_displayed()
    press("n")
    WebDriverWait(browser, 20).until(lambda _: "rate point 40" in find("facts").text)
    settled()
    assert not find("beta").is_enabled()  # jpeg-like has no head
    assert not find("show").is_displayed()
    press("p")
    settled()
    enabled = find("beta").is_enabled()
    assert enabled == server.shown[0].model.has_realism
    if enabled:
        before = find("image").get_attribute("src")
        press("\ue014")  # arrow right
        WebDriverWait(browser, 20).until(lambda _: find("caption").text == "decoded, beta 0.05")
        settled()
        assert find("image").get_attribute("src") != before
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [r for r in requests if not r.startswith((server.url, "data:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.save_screenshot(str(tmp_path / "view.png"))


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "nicc", "view", str(SAMPLES[0]), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16}/\n", url)
        process.terminate()
    (tmp_path / "x.nic").write_bytes(b"no")
    done = run("view", tmp_path / "x.nic", "--no-browser")
    assert (done.returncode, done.stdout) == (1, b"")
    assert run("view", SAMPLES[0], "--original", SAMPLES[0], "--original", SAMPLES[0]).returncode == 2
