"""What a codec is to the benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from nicc.errors import NiccError


class Unavailable(NiccError):
    """A codec's library or weights are missing; the message says what installs them."""


class Codec(ABC):
    """Codes pixels uint8 ``(height, width, 3)`` at a quality of its own scale.

    Constructing one is cheap; `prepare` imports and loads, and raises `Unavailable`.
    """

    description: str = ""
    qualities: tuple[float, ...] = ()
    """What a run measures, from the smallest files to the largest."""
    mime: str | None = None
    """Type of the coded bytes if browsers show them."""
    timing_only = False
    """Without trained weights: times mean something, bits and distortion do not."""
    decoder_kmac: float | None = None
    """Multiply-accumulates per pixel at the receiver, in thousands."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, *, only_decoding: bool = False) -> None:  # noqa: B027  some codecs need none
        """Imports libraries and loads weights, of the receiver's side only if so asked."""

    @abstractmethod
    def identity(self) -> str:
        """What results depend on beside image and quality: versions, settings, weights."""

    @abstractmethod
    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """The whole file."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """Pixels as `encode` takes them."""
