"""The realism stage: a conditional head on a frozen model (Agustsson et al. 2023, section 3).

Per sample, MSE / 100 + beta (4.26 LPIPS + adversarial), beta in the paper's units drawn from 0 to
5.12, on what files of the model really decode to at a rate point drawn as well. First without, then
with the adversarial part: a patch discriminator with spectral norm that also sees the latents
(Mentzer et al. 2020), non-saturating loss.

With ``files``, a head learns what to add to files as they are: coded by the encoder, with latents in the middle of
their intervals, and with the strengths and the grain that their texture boxes tell by a network for an earlier head.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save as save_arrays
from torch import Tensor

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder import realism
from nicc.decoder.networks import inside
from nicc.encoder.texture import BETA, estimator_for
from nicc.encoder.visual import decibels, raw_difference
from nicc.errors import ModelError
from nicc.head import LARGEST_BETA, LATENT_REACH, PIXEL_REACH
from nicc.images import write_atomically
from nicc.model import REALISM_FILE, Model, digest, load_transform
from nicc.ssimulacra2 import visual_distortion
from nicc.training.codec import lambdas
from nicc.training.config import RealismConfig
from nicc.training.files import Batch, Crop, Pool, noise_somewhere
from nicc.training.frozen import Decoded, Frozen
from nicc.training.optimizer import MuonAdam
from nicc.training.perceptual import NETWORKS, Lpips
from nicc.training.realism_networks import Discriminator, RealismHead
from nicc.training.stage import CHECKPOINT, Average, LogReport, Run, Stage, drive

WON_LOSS, WON_STEPS = 0.02, 200
"""The discriminator has won when its loss stays below this for so many steps in the mean."""
CUT = 2
RATE_EXPONENT = 0.5
"""Losses are multiplied by this power of lambda: distortion and LPIPS fall with the rate, and where they are low the
head would hardly be trained. (They fall about as its power of 0.65; low rates keep the larger part.)"""
AT_HALF = 0.75
"""Share of files that are shown at the beta at which texture is told."""
FAINT, SMALLEST_BETA = 0.003, 0.05
"""Added to LPIPS at beta 0, and the least beta, where losses are divided by them."""
VALIDATION_BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
VALIDATION_COUNT, GRID_COUNT = 8, 4


class HeadTrainer(Stage):
    """State of one run: head, average of its weights, discriminator, optimizers, position."""

    def __init__(self, config: RealismConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        self.model = load_transform(config.model)
        self.base = Frozen(self.model, run.device)
        torch.manual_seed(self.s.seed)  # loading a model draws random numbers, unless it is cached
        deviation, channels = self.base.receiver.p["deviation"], self.model.architecture.latent_channels
        self.head = RealismHead(config.head, channels, deviation).to(self.device)
        self.discriminator = Discriminator(self.s.discriminator_width, channels).to(self.device)
        self.lpips = [Lpips.of_folder(name, run.perceptual).to(self.device) for name in NETWORKS]
        self.optimizer = MuonAdam(self._groups(), betas=(0.9, 0.99))
        self.adversary = torch.optim.Adam(self.discriminator.parameters(), betas=(0.5, 0.99))
        self.discriminator_loss = 2 * math.log(2.0)
        saved, average = self.saved(), None
        if saved:
            if saved["model"] != self.model.sha256 or saved["head"] != config.head.to_dict():
                raise ModelError(f"{run.out / CHECKPOINT}: belongs to another model or head; train into another folder")
            for name, part in self._parts().items():
                part.load_state_dict(saved[name])
            average = {k: v.to(self.device) for k, v in saved["average"].items()}
        elif run.begin:
            self._start_from(load_transform(str(run.begin.resolve())))
        self.average = Average(self.head, self.s.ema, average)
        self.begin(saved)
        self.pool = self._pool() if self.s.files else None

    def _pool(self) -> Pool:
        if (network := estimator_for(self.model)) is None:
            raise ModelError(f"{self.model.name} has no network that tells texture; train one, or a head without files")
        return Pool(self.model, network, round(self.model.architecture.rate_points * self.s.highest_rate), self.s.shown)

    @torch.no_grad()
    def _start_from(self, other: Model) -> None:
        """Takes over the head of another model whose first latents mean about the same; new latents start unseen."""
        theirs = other.realism
        if theirs.architecture.widths != self.config.head.widths:
            raise ModelError(f"cannot start from the head of {other.name}: its widths differ")
        for part, begin in enumerate((0.0, *self.config.head.parts)):
            arrays = theirs.architecture.arrays_of(theirs.architecture.part(begin), theirs.params)
            for name, value in self.head.arrays(part).items():
                given = torch.from_numpy(arrays[name])
                if len(given) > len(value):
                    raise ModelError(f"cannot start from the head of {other.name}: it sees more latents")
                value.zero_()
                value[: len(given)] = given
        self.step, self.pixels = theirs.training["step"], theirs.training["pixels"]
        self.seconds = float(theirs.training["seconds"])

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of."""
        return {
            "weights": self.head,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "adversary": self.adversary,
        }

    def state(self) -> dict[str, Any]:
        facts = {"model": self.model.sha256, "head": self.config.head.to_dict(), "average": self.average.values}
        return facts | {name: part.state_dict() for name, part in self._parts().items()}

    def _groups(self) -> list[dict[str, Any]]:
        """Muon for the matrices of hidden layers, Adam for the rest, its steps shrinking with the fan-in."""
        groups: list[dict[str, Any]] = []
        for name, p in self.head.p.items():
            if p.dim() == 1 or "table" in name:
                groups.append({"params": [p], "base": self.s.rate, "muon": None})
            elif name.endswith("pixel_out"):
                groups.append({"params": [p], "base": self.s.rate * (64 / p.shape[0]) ** 0.5, "muon": None})
            else:
                groups.append({"params": [p], "base": self.s.matrix_rate, "muon": "inputs first"})
        return groups

    def train_step(self) -> dict[str, float]:
        s, decay = self.s, self.decay
        self.set_rates(self.optimizer, decay * self.warmth)
        self.adversary.param_groups[0]["lr"] = s.discriminator_rate * decay
        x, decoded, point, file = self._drawn()
        beta = torch.rand(s.batch, device=self.device) * LARGEST_BETA
        if self.pool:
            beta[torch.rand(s.batch) < AT_HALF] = BETA
        adversarial = self.progress >= 1 - s.adversarial_share
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            plain, detail = self.layers(decoded, beta, point)
            fake = self.shown(plain, detail, beta, file)
            distance = self.lpips[self.step % len(self.lpips)](*self.shifted(x, fake)).float()
            fake = fake.float()
            mse = (fake - x).square().mean((1, 2, 3)) * 255**2
            distortion = mse
            if self.model.architecture.objective == "visual":
                with torch.autocast(self.device.type, enabled=False):
                    distortion = visual_distortion(mse, raw_difference(x, fake))
            realness = torch.zeros_like(mse)
            if adversarial:
                latents = (decoded.y_hat / self.base.receiver.p["deviation"]).permute(0, 3, 1, 2)
                self._train_discriminator(x, fake.detach(), latents)
                realness = F.softplus(-self.discriminator(fake, latents).float()).mean((1, 2, 3))
            perceptual = s.lpips_weight * distance + s.adversarial_weight * realness
            costs = s.mse_weight * distortion + realism.paper_beta(beta) * perceptual
            objective = (self._weights(x, plain, beta, point) * costs).mean()
        self.update(self.head, self.optimizer, objective)
        self.average.update(self.head, self.step)
        if self.discriminator_loss < WON_LOSS:
            self.ended = "the discriminator has won; it teaches nothing any more"
        figures = {"loss": objective, "mse": mse.mean(), "lpips": distance.mean(), "realness": realness.mean()}
        return {k: float(v.detach()) for k, v in figures.items()} | {"discriminator": self.discriminator_loss}

    def _drawn(self) -> tuple[Tensor, Decoded, Tensor, Batch | None]:
        """The next crops, what their files decode to, at which rate points they were coded, and what files tell."""
        x = self.crops()
        if self.pool:
            batch = self.pool.draw(x.cpu(), self.rng).to(self.device)
            return batch.x, self._decoded(batch), batch.rate_point, batch
        point = torch.randint(self.model.architecture.rate_points, (len(x),), device=self.device)
        return x, self.base.decode(x, point), point, None

    def _decoded(self, batch: Batch) -> Decoded:
        rate = self.base.receiver.rate(batch.rate_point)
        return Decoded(batch.latents, batch.latents, rate.rectifier_bias, rate.inverse / rate.gain)

    @torch.no_grad()
    def _weights(self, x: Tensor, plain: Tensor, beta: Tensor, point: Tensor) -> Tensor:
        """What losses are multiplied by: 1 for the rate point in the middle; of files, so that LPIPS counts relative to
        what it is at beta 0."""
        if self.pool:
            distance = self.lpips[self.step % len(self.lpips)](x, plain.permute(0, 3, 1, 2))
            return 1 / (self.s.lpips_weight * realism.paper_beta(beta.clamp_min(SMALLEST_BETA)) * (distance + FAINT))
        arch = self.model.architecture
        return (lambdas(arch, point) / (arch.lambda_min * arch.lambda_max) ** 0.5) ** RATE_EXPONENT

    def _train_discriminator(self, real: Tensor, fake: Tensor, latents: Tensor) -> None:
        logits = self.discriminator(torch.cat([real, fake]), torch.cat([latents, latents])).float()
        on_real, on_fake = logits.chunk(2)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        self.adversary.zero_grad(set_to_none=True)
        loss.backward()
        self.adversary.step()
        self.discriminator_loss += (float(loss.detach()) - self.discriminator_loss) / WON_STEPS

    def layers(
        self, decoded: Decoded, beta: Tensor, point: Tensor, head: RealismHead | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pixels ``(N, H, W, 3)`` and what realism beta ``(N,)`` adds, by this head or the one in training."""
        with torch.no_grad():
            y = self.base.padded(decoded, LATENT_REACH)
            x = self.base.synthesise(inside(y, LATENT_REACH - PIXEL_REACH - 1))
            rate = point / (self.model.architecture.rate_points - 1)
            plain = self.base.filtered(x, point, PIXEL_REACH * PIXELS_PER_LATENT)
            strength = torch.tensor([realism.strength(self.config.head, share) for share in rate.tolist()])
        return plain, strength.to(x.device)[:, None, None, None] * (head or self.head)(y, x, beta, rate)

    def shown(self, plain: Tensor, detail: Tensor, beta: Tensor, file: Batch | None = None) -> Tensor:
        """Pixels ``(N, 3, H, W)`` that receivers make of `layers`, by what files tell or without.

        What files tell is of the model's head, not of the one in training, and stays while that changes.
        """
        if file is None:
            return (plain + detail).permute(0, 3, 1, 2)
        share = torch.tensor([realism.grain(b) for b in beta.tolist()], device=self.device)[:, None, None, None]
        noise = torch.from_numpy(noise_somewhere(self.rng, *plain.shape[1:3])).to(self.device)[..., None]
        return (plain + file.strength * detail + share * file.grain * noise / 255).permute(0, 3, 1, 2)

    def _validated(self, images: Tensor, point: Tensor) -> tuple[Decoded, Batch | None]:
        if not self.pool:
            return self.base.decode(images, point), None
        pixels = (images.permute(0, 2, 3, 1) * 255).byte().cpu().numpy()
        network = self.pool.network
        crops = [Crop.of(self.model, network, x, r) for x, r in zip(pixels, point.tolist(), strict=True)]
        batch = Batch.of(crops).to(self.device)
        return self._decoded(batch), batch

    def averaged(self) -> RealismHead:
        head = RealismHead(self.config.head, self.model.architecture.latent_channels, torch.ones(1)).to(self.device)
        head.load_state_dict(self.average.values)
        return head

    @torch.no_grad()
    def validate(self, images: Tensor) -> dict[str, Any]:
        """PSNR and LPIPS-AlexNet by rate point and beta; writes a grid of crops into the run's folder.

        LPIPS is that of the images without their first rows and columns, out of phase with the head's grid.
        """
        images = images[:VALIDATION_COUNT]
        head, table, rows = self.averaged(), [], []
        for point in (9, 27, 3 * self.model.architecture.rate_points // 4):
            points = torch.full((len(images),), point, device=self.device)
            decoded, file = self._validated(images, points)
            shown = [images[:GRID_COUNT]]
            for value in VALIDATION_BETAS:
                beta = torch.full((len(images),), value, device=self.device)
                x = self.shown(*self.layers(decoded, beta, points, head), beta, file).clamp(0, 1)
                x = (x * 255).round() / 255
                mse = (x - images).square().mean((1, 2, 3)) * 255**2
                table.append(
                    {
                        "rate_point": point,
                        "beta": value,
                        "psnr": float(decibels(mse).mean()),
                        "lpips": float(self.lpips[0](images[..., CUT:, CUT:], x[..., CUT:, CUT:]).mean()),
                    }
                )
                shown.append(x[:GRID_COUNT])
            rows.append(torch.cat([torch.cat(list(column), 2) for column in zip(*shown, strict=True)], 1))
        grid = (torch.cat(rows, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(grid).save(self.run.out / "crops.png")
        return {"table": table}


def train(config: RealismConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains a head and returns its checkpoint, see `nicc.training.stage.drive`.

    Ends early, with a line in the log, when the discriminator has won.
    """
    return drive(HeadTrainer(config, run), report)


def export(checkpoint: Path, model: Model) -> Path:
    """Writes the averaged head of a checkpoint into its model's folder. Raises `ModelError`."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["model"] != model.sha256:
        raise ModelError(f"{checkpoint}: trained on {saved['model'][:8]}, {model.name} is {model.sha256[:8]}; retrain")
    assert model.folder
    arrays = {k.removeprefix("p."): v.numpy() for k, v in saved["average"].items()}
    arrays = {k: v.astype(np.float32 if v.ndim == 1 else np.float16) for k, v in sorted(arrays.items())}
    facts = {
        "name": model.name,
        "model": model.sha256,
        "architecture": saved["head"],
        "sha256": digest(arrays, saved["head"]),
        "training": {k: saved[k] for k in ("step", "pixels")} | {"seconds": round(saved["seconds"])},
    }
    path = model.folder / REALISM_FILE
    write_atomically(path, save_arrays(arrays, {"nicc": json.dumps(facts)}))
    return path
