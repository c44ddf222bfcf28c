# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy"]
# ///
"""What torch says about the losses; writes losses_torch.npz beside this file.

    uv run tests/reference/losses_torch.py

Values and gradients in float64 of
- `torch.nn.functional.cross_entropy` over cosine similarities, the directional loss of Eq. (1);
- open_clip's `ClipLoss` (open_clip/loss.py: `get_logits`, `forward`), with a learned scale, for two views,
  and summed over the pairs of three;
- open_clip's `SigLipLoss` (`get_logits`, `_loss`), with a learned scale and bias;
- `lalign` and `lunif` as printed in Wang and Isola (2020), Figure 5.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

TEMPERATURE = 0.07


def clip_loss(image_features, text_features, logit_scale):
    logits_per_image = logit_scale * image_features @ text_features.T
    logits_per_text = logit_scale * text_features @ image_features.T
    labels = torch.arange(logits_per_image.shape[0])
    return (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_text, labels)) / 2


def siglip_loss(image_features, text_features, logit_scale, logit_bias):
    logits = logit_scale * image_features @ text_features.T + logit_bias
    labels = -torch.ones_like(logits) + 2 * torch.eye(logits.shape[0], dtype=logits.dtype)
    return -F.logsigmoid(labels * logits).sum() / image_features.shape[0]


def lalign(x, y, alpha=2):
    return (x - y).norm(p=2, dim=1).pow(alpha).mean()


def lunif(x, t=2):
    return torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log()


def with_gradients(loss, *inputs):
    for x in inputs:
        x.grad = None
    loss.backward()
    return [loss.detach().numpy(), *(x.grad.numpy().copy() for x in inputs)]


def main():
    rng = np.random.default_rng(20261122)
    shared = rng.normal(size=(12, 7))
    # Rows of very different lengths, views that agree in part.
    views = (shared + 0.8 * rng.normal(size=(3, 12, 7))) * np.exp(rng.normal(size=(3, 12, 1)))
    z = torch.tensor(views, requires_grad=True)
    scale = torch.tensor(1 / TEMPERATURE, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    out = {"views": views, "temperature": TEMPERATURE, "bias": bias.detach().numpy()}

    u = F.normalize(z, dim=2)
    loss = F.cross_entropy(u[0] @ u[1].T / TEMPERATURE, torch.arange(12))
    out["cross_entropy"], out["cross_entropy_views"] = with_gradients(loss, z)

    u = F.normalize(z, dim=2)
    out["clip"], out["clip_views"], out["clip_scale"] = with_gradients(clip_loss(u[0], u[1], scale), z, scale)

    u = F.normalize(z, dim=2)
    loss = clip_loss(u[0], u[1], scale) + clip_loss(u[0], u[2], scale) + clip_loss(u[1], u[2], scale)
    out["clip_sum"], out["clip_sum_views"], out["clip_sum_scale"] = with_gradients(loss, z, scale)

    u = F.normalize(z, dim=2)
    loss = siglip_loss(u[0], u[1], scale, bias)
    out["siglip"], out["siglip_views"], out["siglip_scale"], out["siglip_bias"] = with_gradients(
        loss, z, scale, bias
    )

    u = F.normalize(z, dim=2).detach()
    out["lalign_2"], out["lalign_1"] = lalign(u[0], u[1]).numpy(), lalign(u[0], u[1], 1).numpy()
    out["lunif_2"], out["lunif_3"] = lunif(u[0]).numpy(), lunif(u[0], 3).numpy()
    np.savez(Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
