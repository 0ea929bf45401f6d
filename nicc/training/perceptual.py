"""LPIPS networks (Zhang et al. 2018): the ``lpips`` package's weights over features from a local file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lpips
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.errors import NiccError

NETWORKS = {"alex": "alexnet", "squeeze": "squeezenet1_1"}
"""Names of ``lpips`` and of torchvision."""


def lpips_network(name: str, backbone: Path | None) -> Any:
    """LPIPS over AlexNet (``alex``) or SqueezeNet 1.1 (``squeeze``).

    ``backbone`` is a state dict of torchvision's network or of its features alone; None downloads
    it. Raises `NiccError` where neither works.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=name, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    try:
        if backbone is None:
            import torchvision

            weights = torchvision.models.get_model_weights(NETWORKS[name]).DEFAULT.get_state_dict(progress=False)
        else:
            weights = torch.load(backbone, map_location="cpu", weights_only=True)
        features = {k.removeprefix("features."): v for k, v in weights.items() if not k.startswith("classifier")}
        network.net.load_state_dict({k: features.pop(k.split(".", 1)[1]) for k in network.net.state_dict()})
    except Exception as e:  # a download or an unknown file can fail in many ways
        raise NiccError(f"no {NETWORKS[name]} features ({e}); give a file by --lpips-backbone") from None
    return network


class Lpips(nn.Module):
    """LPIPS of batches, differentiable in the second; features of the first are computed without gradients."""

    def __init__(self, name: str, backbone: Path | None = None) -> None:
        super().__init__()
        self.network = lpips_network(name, backbone)

    @classmethod
    def of_folder(cls, name: str, folder: Path | None) -> Lpips:
        """The network over ``alexnet_features.pth`` or ``squeezenet1_1_features.pth`` of a folder, or downloaded."""
        return cls(name, folder / f"{NETWORKS[name]}_features.pth" if folder else None)

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised features of ``(N, 3, H, W)`` in -1..1, one tensor a layer."""
        return [lpips.normalize_tensor(f) for f in self.network.net(self.network.scaling_layer(x))]

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Distances ``(N,)`` of `features`."""
        layers = zip(self.network.lins, a, b, strict=True)
        return torch.stack([lin((fa - fb).square()).mean((1, 2, 3)) for lin, fa, fb in layers]).sum(0)

    def maps(self, a: list[Tensor], b: list[Tensor], tile: int, size: tuple[int, int]) -> Tensor:
        """`between` by tiles of so many pixels a side of images ``(height, width)``: ``(N, rows, columns)``."""
        layers = zip(self.network.lins, a, b, strict=True)
        wide = [F.interpolate(lin((fa - fb).square()), size, mode="bilinear") for lin, fa, fb in layers]
        return F.avg_pool2d(torch.stack(wide).sum(0), tile, ceil_mode=True)[:, 0]

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Distances ``(N,)`` of images ``(N, 3, H, W)`` in 0..1, 64 pixels a side or more."""
        with torch.no_grad():
            a = self.features(original * 2 - 1)
        return self.between(a, self.features(decoded * 2 - 1))
