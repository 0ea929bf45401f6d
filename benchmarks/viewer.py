"""How soon nicc view shows an image anew when beta changes, in a headless Chromium: a figure of docs/benchmarks.md.

    OPENBLAS_NUM_THREADS=1 python benchmarks/viewer.py IMAGE

From the slider's event to the new image decoded in the page; every beta is new, so that nothing is cached.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import nicc
from nicc.viewer.server import Server, load
from tests.conftest import BROWSER, DRIVER, QUIET

CHANGE = """
const [beta, done] = arguments, begun = performance.now(), image = document.getElementById("image");
const before = image.src;
document.getElementById("beta").value = beta;
document.getElementById("beta").dispatchEvent(new Event("input"));
const look = async () => {
  if (image.src === before || image.classList.contains("waiting")) return setTimeout(look, 1);
  await image.decode();
  done(performance.now() - begun);
};
look();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    arguments = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in QUIET.split():
        options.add_argument(argument)
    with tempfile.TemporaryDirectory() as folder, Image.open(arguments.image) as image:
        coded = Path(folder) / "x.nic"
        coded.write_bytes(nicc.encode(image.convert("RGB")))
        with Server([load(coded, None)]) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
            try:
                driver.get(server.url)
                WebDriverWait(driver, 20).until(lambda d: d.find_element("id", "caption").text)
                times = [
                    driver.execute_async_script(CHANGE, beta) for beta in np.linspace(0.05, 1, 20).round(2).tolist()
                ]
            finally:
                driver.quit()
                server.shutdown()
        print(f"{image.width}x{image.height}: {np.median(times):.0f} ms in the median of 20, {max(times):.0f} at most")


if __name__ == "__main__":
    main()
