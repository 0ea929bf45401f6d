"""Times of a codec in this process, and the peak memory of fresh ones."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from nicc.bench.codecs import Codec, find
from nicc.threads import processors


@lru_cache
def machine() -> str:
    """Processor, processors this process may use, and threads of the numerical libraries."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {processors()} processors, PyTorch threads {torch_threads()}"


def torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats`` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def take(codec: Codec, pixels: np.ndarray, quality: float, repeats: int) -> dict[str, float]:
    """Seconds for encoding and decoding one image, pixels to bytes and back."""
    data = codec.encode(pixels, quality)
    return {
        "encoding_time": median_seconds(lambda: codec.encode(pixels, quality), repeats),
        "decoding_time": median_seconds(lambda: codec.decode(data), repeats),
    }


def memory(codec: Codec, pixels: np.ndarray, quality: float) -> dict[str, float]:
    """Peak resident memory in MB of processes that encode and decode one image."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pixels.npy", pixels)
        (Path(folder) / "coded").write_bytes(codec.encode(pixels, quality))
        for what in ("encoding", "decoding"):
            command = [sys.executable, "-m", "nicc.bench.timing", what, codec.name, folder, str(quality)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                peaks[f"{what}_memory"] = float(done.stdout.splitlines()[-1])
    return peaks


def _peak_megabytes() -> float:
    """Peak resident memory of this process. Linux's own figure: getrusage's includes the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1024)


def _child(what: str, name: str, folder: str, quality: str) -> None:
    codec = find(name)
    codec.prepare(only_decoding=what == "decoding")
    if what == "encoding":
        codec.encode(np.load(Path(folder) / "pixels.npy"), float(quality))
    else:
        codec.decode((Path(folder) / "coded").read_bytes())
    print(_peak_megabytes())


if __name__ == "__main__":
    _child(*sys.argv[1:])
