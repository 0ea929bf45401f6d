"""What nicc bench adds to the times that it reports: its own loop beside a bare one, alternating.

python benchmarks/overhead.py IMAGE
"""

from __future__ import annotations

import sys
import time

import numpy as np
from PIL import Image

import nicc
from nicc.bench import codecs, timing

ROUNDS = 40


def main() -> None:
    with Image.open(sys.argv[1]) as image:
        photo = image.convert("RGB")
    pixels = np.asarray(photo)
    for name in ("nicc-two-layer", "webp", "jpeg"):
        codec = codecs.find(name)
        quality = codec.qualities[3]
        data = codec.encode(pixels, quality)
        ratios = []
        for _ in range(ROUNDS):
            reported = timing.take(codec, pixels, quality, 3)["decoding_time"]
            times = []
            for _ in range(4):
                begun = time.perf_counter()
                if name.startswith("nicc"):
                    np.asarray(nicc.decode(data))
                else:
                    codec.decode(data)
                times.append(time.perf_counter() - begun)
            ratios.append(reported / float(np.median(times[1:])))
        print(f"{name}: reported / bare loop {np.median(ratios):.4f}, quartiles {np.quantile(ratios, [0.25, 0.75])}")


if __name__ == "__main__":
    main()
