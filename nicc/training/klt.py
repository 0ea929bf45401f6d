"""The start of training: a lapped Karhunen-Loeve transform computed from photographs.

A KLT of 16x16 blocks alone is a working linear codec, but blocks show. Filtering across the block
borders before it (and back after it) turns it into a lapped transform with smooth, overlapping
basis functions and a higher coding gain: Tran, Liang & Tu, "Lapped transform via time-domain pre-
and post-filtering", 2003, the biorthogonal closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT as BLOCK
from nicc.training.data import Photos


@dataclass(frozen=True)
class LappedTransform:
    """A linear analysis and synthesis with ``C`` channels and ``k`` x ``k`` windows.

    ``analysis`` and ``synthesis`` are ``(C, 3, k, k)``; ``parity`` is ``(2, C)``, +1 or -1 under
    horizontal and vertical flips; ``colour`` the mean RGB; ``deviation`` ``(C,)`` the standard
    deviation of each latent.
    """

    analysis: np.ndarray
    synthesis: np.ndarray
    parity: np.ndarray
    colour: np.ndarray
    deviation: np.ndarray


def _dct(kind: int, n: int) -> np.ndarray:
    k, i = np.mgrid[:n, :n]
    if kind == 2:
        m = np.cos(np.pi * k * (2 * i + 1) / (2 * n)) * np.sqrt(2 / n)
        m[0] /= np.sqrt(2)
        return m
    return np.cos(np.pi * (2 * k + 1) * (2 * i + 1) / (4 * n)) * np.sqrt(2 / n)


def lapping(overlap: int, scale: float = 1.6) -> tuple[np.ndarray, np.ndarray]:
    """Maps of one dimension between a window of 16 + ``overlap`` samples and a block of 16.

    Returns (16, 16 + overlap) for the analysis and (16 + overlap, 16) for the synthesis, which
    adds overlapping windows up to perfect reconstruction.
    """
    half = overlap // 2
    flip = np.eye(half)[::-1]
    eye, zero = np.eye(half), np.zeros((half, half))
    gains = np.eye(half)
    if half:
        gains[0, 0] = scale
    inner = flip @ _dct(2, half).T @ gains @ _dct(4, half) @ flip if half else zero
    butterfly = np.block([[eye, flip], [flip, -eye]])
    pre = butterfly @ np.block([[eye, zero], [zero, inner]]) @ butterfly / 2
    post = np.linalg.inv(pre) if half else pre
    size = BLOCK + overlap
    forward, backward = np.zeros((BLOCK, size)), np.zeros((size, BLOCK))
    for i in range(half, BLOCK - half):
        forward[i, i + half] = backward[i + half, i] = 1
    forward[:half, :overlap] = pre[half:]
    forward[BLOCK - half :, size - overlap :] = pre[:half]
    backward[:overlap, :half] = post[:, half:]
    backward[size - overlap :, BLOCK - half :] = post[:, :half]
    return forward, backward


def lapped_klt(photos: Photos, channels: int, overlap: int, blocks: int = 60000, seed: int = 0) -> LappedTransform:
    """The lapped KLT of random windows of ``photos``, for pixels in 0..1 less the mean colour."""
    rng = np.random.default_rng(seed)
    forward, backward = lapping(overlap)
    size = BLOCK + overlap
    windows = photos.crops(rng, blocks // 16, 2 * size)
    windows = windows.reshape(-1, 2, size, 2, size, 3).swapaxes(2, 3).reshape(-1, size, size, 3)
    colour = windows.mean((0, 1, 2)) / 255
    filtered = np.einsum("ai,bj,nijc->ncab", forward, forward, windows / 255 - colour, optimize=True)
    flat = filtered.reshape(len(filtered), -1)
    cov = (flat.T @ flat / len(flat)).reshape(3, BLOCK, BLOCK, 3, BLOCK, BLOCK)
    cov = (cov + cov[:, ::-1, :, :, ::-1, :]) / 2
    cov = (cov + cov[:, :, ::-1, :, :, ::-1]) / 2
    basis, variance, parity = _eigenvectors_by_parity(cov)
    order = np.argsort(-variance)[:channels]
    basis = basis[order].reshape(-1, 3, BLOCK, BLOCK)
    analysis = np.einsum("ncab,ai,bj->ncij", basis, forward, forward, optimize=True)
    synthesis = np.einsum("ncab,ia,jb->ncij", basis, backward, backward, optimize=True)
    return LappedTransform(analysis, synthesis, parity[:, order], colour, np.sqrt(variance[order]))


def _eigenvectors_by_parity(cov: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvectors of a flip-invariant covariance, each even or odd in both directions."""
    n = 3 * BLOCK * BLOCK
    half = BLOCK // 2
    vectors, variances, parities = [], [], []
    eye, flip = np.eye(half), np.eye(half)[::-1]
    fold = {s: np.concatenate([eye, s * flip], 1) / np.sqrt(2) for s in (1, -1)}
    for v in (1, -1):
        for h in (1, -1):
            space = np.einsum("cd,ai,bj->cabdij", np.eye(3), fold[v], fold[h]).reshape(-1, n)
            values, inner = np.linalg.eigh(space @ cov.reshape(n, n) @ space.T)
            vectors.append(inner.T @ space)
            variances.append(values)
            parities.append(np.tile([[h], [v]], (1, len(values))))
    return np.concatenate(vectors), np.concatenate(variances), np.concatenate(parities, 1)
