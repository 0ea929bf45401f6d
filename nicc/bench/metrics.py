"""Metrics of one decoded image, and the Fréchet distance between sets of patches.

- PSNR: RGB, 0..255, from the mean squared error over all pixels and channels of an image.
- MS-SSIM: pytorch-msssim on RGB; needs more than 160 pixels a side.
- LPIPS: the ``lpips`` package's linear weights over AlexNet features (Zhang et al. 2018).
- SSIMULACRA 2: the ``ssimulacra2`` package; needs 8 pixels a side.
- butteraugli-3norm: the 3-norm of libjxl's Butteraugli, by its program; left out where that is not installed.
- cvvdp: ColorVideoVDP (Mantiuk et al. 2024), in JOD, 10 for no visible difference, on a 24" full-HD display.
- fd-alexnet-64: Fréchet distance between Gaussians fitted to AlexNet's last features, averaged over
  each 64x64 patch, of originals and of reconstructions. Not an FID: that is Inception's.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nicc.errors import NiccError
from nicc.images import decibels

ALL = ("psnr-rgb", "ms-ssim-rgb", "lpips", "ssimulacra2", "butteraugli-3norm", "cvvdp", "fd-alexnet-64")
DISTANCES = ("lpips", "butteraugli-3norm", "fd-alexnet-64")
"""Metrics of which less is better."""
BUTTERAUGLI = ("butteraugli_main", "butteraugli")
"""Names of libjxl's program; the first is Debian's (libjxl-devtools)."""
CVVDP_DISPLAY = "standard_fhd"
MS_SSIM_SMALLEST, LPIPS_SMALLEST, SSIMULACRA_SMALLEST = 161, 64, 8
PATCH = 64


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Decibels between uint8 images; 100 for identical ones."""
    error = np.mean((original.astype(np.float64) - decoded) ** 2)
    return decibels(error)


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """MS-SSIM of uint8 images ``(height, width, 3)``, or None for small ones."""
    if min(original.shape[:2]) < MS_SSIM_SMALLEST:
        return None
    import torch
    from pytorch_msssim import ms_ssim as measure

    a, b = (torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None] for x in (original, decoded))
    with torch.inference_mode():
        return float(measure(a, b, data_range=255))


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """SSIMULACRA 2 of uint8 images, 100 for identical ones, or None for tiny ones."""
    if min(original.shape[:2]) < SSIMULACRA_SMALLEST:
        return None
    from ssimulacra2 import compute_ssimulacra2

    files = []
    for pixels in (original, decoded):
        files.append(io.BytesIO())
        Image.fromarray(pixels).save(files[-1], "PPM")
        files[-1].seek(0)
    return float(compute_ssimulacra2(*files))


def butteraugli_program() -> str | None:
    """Path of libjxl's Butteraugli, if it is installed."""
    return next(filter(None, map(shutil.which, BUTTERAUGLI)), None)


def butteraugli(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """The 3-norm of Butteraugli of uint8 images, 0 for identical ones, or None for tiny ones."""
    program = butteraugli_program()
    if program is None or min(original.shape[:2]) < SSIMULACRA_SMALLEST:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(2)]
        for path, pixels in zip(paths, (original, decoded), strict=True):
            Image.fromarray(pixels).save(path, compress_level=1)
        done = subprocess.run([program, *map(str, paths)], capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("3-norm:")[2])


@lru_cache(maxsize=1)
def _visible_differences() -> Any:
    import pycvvdp
    import torch

    return pycvvdp.cvvdp(display_name=CVVDP_DISPLAY, device=torch.device("cpu"), quiet=True)


def cvvdp(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """ColorVideoVDP of uint8 images in JOD, 10 for identical ones, or None for small ones."""
    if min(original.shape[:2]) < LPIPS_SMALLEST:
        return None
    return float(_visible_differences().predict(decoded, original, dim_order="HWC")[0])


class AlexNetMetrics:
    """LPIPS, and features of patches for the Fréchet distance, on one AlexNet.

    ``backbone`` is a state dict of torchvision's AlexNet or of its features alone; None downloads
    it. Raises `NiccError` where neither works.
    """

    def __init__(self, backbone: Path | None) -> None:
        import torch

        from nicc.training.perceptual import Lpips

        self.torch = torch
        self.lpips_of = Lpips("alex", backbone)
        self._last: tuple[bytes, list[Any]] = (b"", [])

    def _features(self, pixels: np.ndarray) -> list[Any]:
        x = self.torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        return self.lpips_of.features(x)

    def lpips(self, original: np.ndarray, decoded: np.ndarray) -> float | None:
        """LPIPS of uint8 images ``(height, width, 3)``, or None for small ones."""
        if min(original.shape[:2]) < LPIPS_SMALLEST:
            return None
        with self.torch.inference_mode():
            key = original.tobytes()
            if self._last[0] != key:
                self._last = key, self._features(original)
            return float(self.lpips_of.between(self._last[1], self._features(decoded)))

    def patches(self, pixels: np.ndarray) -> np.ndarray | None:
        """``(N, 256)`` float16 features of overlapping patches: a grid of them, and the grid moved by half."""
        cut = []
        for offset in (0, PATCH // 2):
            part = pixels[offset:, offset:]
            h, w = (n // PATCH for n in part.shape[:2])
            part = part[: h * PATCH, : w * PATCH].reshape(h, PATCH, w, PATCH, 3)
            cut.append(part.transpose(0, 2, 4, 1, 3).reshape(-1, 3, PATCH, PATCH))
        stack = np.concatenate(cut)
        if not len(stack):
            return None
        with self.torch.inference_mode():
            x = self.torch.from_numpy(stack.astype(np.float32)) / 127.5 - 1
            network = self.lpips_of.network
            features = network.net(network.scaling_layer(x))[-1]
            return features.mean((2, 3)).numpy().astype(np.float16)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to the rows of two arrays ``(N, D)``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    ca, cb = (np.cov(x, rowvar=False) for x in (a, b))
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


class Meter:
    """The chosen metrics of pairs of images; ``notes`` say which are left out and why."""

    def __init__(self, wanted: tuple[str, ...], backbone: Path | None) -> None:
        self.notes: list[str] = []
        self.functions: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {}
        self.alexnet: AlexNetMetrics | None = None
        self.with_patches = False
        if {"lpips", "fd-alexnet-64"} & set(wanted):
            try:
                self.alexnet = AlexNetMetrics(backbone)
                self.with_patches = "fd-alexnet-64" in wanted
            except (NiccError, ImportError) as e:
                self.notes.append(f"lpips and fd-alexnet-64 left out: {e}")
        simple = {
            "psnr-rgb": psnr,
            "ms-ssim-rgb": ms_ssim,
            "ssimulacra2": ssimulacra2,
            "butteraugli-3norm": butteraugli,
            "cvvdp": cvvdp,
        }
        needed = {"ms-ssim-rgb": "pytorch_msssim", "ssimulacra2": "ssimulacra2", "cvvdp": "pycvvdp"}
        for name in wanted:
            if name == "butteraugli-3norm" and not butteraugli_program():
                self.notes.append(f"{name} left out: no {BUTTERAUGLI[0]} here (Debian: apt install libjxl-devtools)")
            elif name in simple:
                try:
                    __import__(needed.get(name, "numpy"))
                    self.functions[name] = simple[name]
                except ImportError as e:
                    self.notes.append(f"{name} left out: needs {e.name}; install it with: pip install 'nicc[bench]'")
            elif name == "lpips" and self.alexnet:
                self.functions[name] = self.alexnet.lpips

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the metrics that are really measured."""
        return (*self.functions, *(["fd-alexnet-64"] if self.with_patches else []))

    def measure(self, original: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
        return {name: function(original, decoded) for name, function in self.functions.items()}

    def patches(self, pixels: np.ndarray) -> np.ndarray | None:
        return self.alexnet.patches(pixels) if self.alexnet and self.with_patches else None
