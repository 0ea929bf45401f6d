"""Graphics among the training crops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from nicc.training.drawn import draw_over
from nicc.training.schedule import StageSchedule
from nicc.training.stage import Stage


def test_drawings_repeat_and_have_flat_parts(coffee):
    crop = np.asarray(coffee)[:128, :128]
    kept = 0
    for n in range(30):
        drawn, again = (draw_over(crop, np.random.default_rng(n)) for _ in range(2))
        np.testing.assert_array_equal(drawn, again)
        assert drawn.shape == crop.shape
        assert drawn.dtype == np.uint8
        assert (drawn != crop).any()
        kept += (drawn == crop).all(-1).mean() > 0.3
    assert 3 < kept < 20  # on about two of five, the photograph is the ground


def test_a_share_of_the_crops_is_drawn_over():
    photographs = np.full((200, 32, 32, 3), 77, np.uint8)
    photos = SimpleNamespace(crops=lambda rng, count, size: photographs.copy())
    for share, low, high in ((0.0, 0, 0), (0.25, 0.12, 0.4), (1.0, 0.9, 1)):
        stage = SimpleNamespace(
            photos=photos, rng=np.random.default_rng(0), timing=StageSchedule(drawn_share=share), device="cpu"
        )
        x = Stage.crops(stage)
        changed = (x != torch.tensor(77 / 255)).flatten(1).any(1).float().mean()
        assert low <= changed <= high
