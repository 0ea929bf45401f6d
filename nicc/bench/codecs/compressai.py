"""CompressAI's zoo. Times always; rate-distortion only where pretrained weights can be loaded."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import Any

import numpy as np

from nicc.bench.codecs.base import Codec, Unavailable

ZOO = {
    "bmshj2018-hyperprior": "scale hyperprior (Balle et al. 2018)",
    "mbt2018-mean": "mean-scale hyperprior (Minnen et al. 2018)",
    "cheng2020-anchor": "Cheng et al. 2020, autoregressive",
    "elic2022-official": "ELIC (He et al. 2022)",
}
WITHOUT_WEIGHTS = 3
"""The quality, hence the network's width, that is timed where no weights can be loaded."""
STRIDE = 64
HEAD = "<BHHH"


class CompressAICodec(Codec):
    """A zoo model at qualities 1 to 6 (one network each), on all threads that PyTorch has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.description = ZOO[name]
        self.qualities = (1, 2, 3, 4, 5, 6)
        self.networks: dict[int, Any] = {}

    def prepare(self, *, only_decoding: bool = False) -> None:
        try:
            import compressai.zoo
            import torch
        except ImportError:
            raise Unavailable("needs compressai; install it with: pip install 'nicc[bench]'") from None
        self.torch = torch
        try:
            for quality in self.qualities:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    self.networks[int(quality)] = self._build(compressai.zoo, int(quality), pretrained=True)
        except Exception:  # no network, no such weights, a file that does not fit: then only times
            torch.manual_seed(0)
            self.timing_only, self.qualities = True, (WITHOUT_WEIGHTS,)
            self.networks = {WITHOUT_WEIGHTS: self._build(compressai.zoo, WITHOUT_WEIGHTS, pretrained=False)}
            self.description += ", random weights: times only"

    def _build(self, zoo: Any, quality: int, pretrained: bool) -> Any:
        if self.name in zoo.image_models:
            network = zoo.image_models[self.name](quality=quality, pretrained=pretrained)
        elif pretrained:
            raise ValueError("no pretrained weights are published for this model")
        else:
            from compressai.models.sensetime import Elic2022Official

            network = Elic2022Official()
        network.eval().update()
        return network

    def identity(self) -> str:
        import compressai

        return f"compressai {compressai.__version__} torch {self.torch.__version__} trained {not self.timing_only}"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        torch, (h, w) = self.torch, pixels.shape[:2]
        padded = np.pad(pixels, ((0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            coded = self.networks[int(quality)].compress(x)
        # the library has no file format: quality, size and shape in front of the streams and their lengths
        shape = json.dumps(coded["shape"], separators=(",", ":")).encode()
        head = struct.pack(HEAD, int(quality), h, w, len(shape)) + shape
        return head + b"".join(struct.pack("<I", len(s)) + s for (s,) in coded["strings"])

    def decode(self, data: bytes) -> np.ndarray:
        quality, h, w, length = struct.unpack_from(HEAD, data)
        position = struct.calcsize(HEAD) + length
        shape, streams = json.loads(data[position - length : position]), []
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            streams.append([data[position + 4 : position + 4 + length]])
            position += 4 + length
        with self.torch.inference_mode():
            x = self.networks[quality].decompress(streams, shape)["x_hat"]
        pixels = (x[0, :, :h, :w].permute(1, 2, 0).clamp(0, 1) * 255).round()
        return pixels.to(self.torch.uint8).numpy()

    def count_macs(self, pixels: np.ndarray) -> None:
        """Sets `decoder_kmac`: multiply-accumulates of all convolutions while decoding an image."""
        torch, total = self.torch, 0

        def count(module: Any, inputs: Any, output: Any) -> None:
            nonlocal total
            positions = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
            total += module.weight.numel() * positions.shape[-1] * positions.shape[-2]

        quality = self.qualities[0]
        data = self.encode(pixels, quality)
        kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
        hooks = [m.register_forward_hook(count) for m in self.networks[int(quality)].modules() if isinstance(m, kinds)]
        self.decode(data)
        for hook in hooks:
            hook.remove()
        self.decoder_kmac = round(total / pixels[..., 0].size / 1000, 1)


CODECS = (CompressAICodec, tuple(ZOO))
