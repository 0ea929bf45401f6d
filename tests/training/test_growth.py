"""Training goes on from a shipped folder, and what a larger model has more starts silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nicc import ModelError
from nicc.encoder.encode import encode_plainly
from nicc.images import Picture
from nicc.model import load_model
from nicc.training.codec import CodecModule, at_rate
from nicc.training.data import Photos
from nicc.training.growth import start_from
from nicc.training.objective import Phase, RateDistortion
from nicc.training.restore import checkpoint_of, restored_codec
from tests.conftest import TINY
from tests.test_arrays import LARGER


@pytest.fixture
def crops(photos):
    return Photos([photos])


def test_a_shipped_folder_is_the_codec_it_came_from(model, coffee, crops):
    """Bits and errors are those of the files, to the precision of relaxed rows."""
    saved = checkpoint_of(Path(str(model.folder)), crops)
    restored = RateDistortion(CodecModule(model.architecture))
    restored.load_state_dict(saved["average"])
    restored.eval()
    assert saved["step"] == model.description["training"]["step"]
    pixels = np.asarray(coffee.crop((100, 50, 356, 306)))
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    for point in (9, 36, 63):
        with torch.no_grad():
            outcome = restored(x, torch.tensor([float(point)]), Phase.PREDICTIVE)
        bpp = encode_plainly(model, Picture(pixels), point).estimated_bits / pixels[..., 0].size
        assert float(outcome.bpp_y + outcome.bpp_z) == pytest.approx(bpp, rel=0.08)


def test_every_weight_comes_back(model):
    """Exporting the restored codec again changes no array by more than its rounding."""
    from nicc.training.export import decoder_arrays

    again = decoder_arrays(restored_codec(model))
    for name, array in model.arrays.items():
        if name.startswith(("z_", "y_", "active", "filter", "realism")):
            continue
        a, b = array.astype(np.float64), again[name].astype(np.float64)
        if name in ("gain", "inverse"):
            np.testing.assert_allclose(b, a, rtol=1e-4)
        else:
            assert np.abs(a - b).max() <= 1 if array.dtype.kind == "i" else np.allclose(a, b, rtol=1e-3, atol=1e-6), (
                name
            )


def test_a_larger_model_starts_as_the_smaller_one(crops):
    torch.manual_seed(2)
    small, large = RateDistortion(CodecModule(TINY)), RateDistortion(CodecModule(LARGER))
    with torch.no_grad():
        for name, value in small.codec.named_parameters():
            if name.startswith(("p.synthesis", "p.igdn", "analysis.linear")):
                value.normal_(std=0.05)
        small.codec.p["synthesis_main"][20:] = 0  # these will not reach the non-linear branch
        small.codec.log_gain.copy_(torch.linspace(1, 3, 8)[:, None].expand(-1, 32))
        small.codec.rounding.copy_(torch.linspace(1, 3, 8)[:, None].expand(-1, 32))
    start_from(large, small.state_dict(), TINY, crops, 12)
    x = torch.rand(2, 3, 64, 96)
    y, y_small = (m.codec.analysis(x) for m in (large, small))
    torch.testing.assert_close(y[..., :32], y_small, atol=1e-5, rtol=1e-5)
    z, z_small = (m.codec.hyper(v) for m, v in ((large, y), (small, y_small)))
    torch.testing.assert_close(z, z_small, atol=1e-4, rtol=1e-4)
    # the same lambda lies at another rate point: 0.08 at 63 of the small one's range
    share = np.log(0.08 / LARGER.lambda_min) / np.log(LARGER.lambda_max / LARGER.lambda_min)
    points = torch.tensor([63.0, 63.0]), torch.tensor([100 * share] * 2, dtype=torch.float32)
    torch.testing.assert_close(
        large.codec.rate(points[1]).gain[..., :32], small.codec.rate(points[0]).gain, rtol=0.02, atol=0
    )
    rounding = at_rate(LARGER, large.codec.rounding, points[1])
    torch.testing.assert_close(rounding[..., :32], torch.full((2, 1, 1, 32), 3.0), rtol=0.03, atol=0)  # between anchors
    assert (rounding[..., 32:] == 1).all()
    y_hat = torch.zeros_like(y)
    y_hat[..., :32] = y_small
    decoded, expected = large.codec.synthesise(y_hat, points[1]), small.codec.synthesise(y_small, points[0])
    torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=1e-4)
    outcome = large(x, points[1], Phase.JOINT)
    (outcome.distortion + outcome.bpp_y).sum().backward()
    assert large.codec.p["gain_z"].grad.abs().max() > 0
    assert large.codec.p["synthesis_more"].grad.abs().max() > 0
    assert large.codec.p["igdn_gamma"].grad[:, 12:].abs().max() > 0


@pytest.mark.parametrize(
    "other", [replace(LARGER, groups=(0, 4, 8, 16, 32, 48), bands=(1, 4, 4, 8)), replace(LARGER, kernel=16)]
)
def test_channels_that_do_not_fit_are_refused(crops, other):
    small = RateDistortion(CodecModule(TINY))
    with pytest.raises(ModelError, match="cannot start from"):
        start_from(RateDistortion(CodecModule(other)), small.state_dict(), TINY, crops, 12)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, crops):
    torch.save({"average": {}}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="not a checkpoint"):
        checkpoint_of(tmp_path / "x.pt", crops)
    with pytest.raises(ModelError):
        checkpoint_of(tmp_path, crops)
    assert load_model("two-layer")
