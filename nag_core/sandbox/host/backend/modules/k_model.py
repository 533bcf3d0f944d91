"""The network with the parametrisation around it, as samplers and patches see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PredictionFlow:
    """Rectified flow: x_t = (1 - t) x_0 + t noise with sigma = t, and the network predicts noise - x_0."""

    sigmas = torch.linspace(1e-3, 1.0, 1000)

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """What the network is given."""
        return x

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x_0 from the predicted velocity."""
        return model_input - model_output * sigma.view(-1, *[1] * (model_output.ndim - 1))

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """x_t from noise and x_0."""
        return sigma * noise + (1.0 - sigma) * latent_image

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's own time."""
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        """The reverse of `timestep`."""
        return timestep


class KModel(torch.nn.Module):
    """`diffusion_model` and `predictor`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.diffusion_model = model
        self.predictor = PredictionFlow()
        self.config: Any = None
        self.computation_dtype = torch.float32

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        y: Tensor | None = None,
        **ignored: Any,
    ) -> Tensor:
        """The denoised latent for latent `x` at sigma `t`."""
        xc = self.predictor.calculate_input(t, x).to(self.computation_dtype)
        context = c_crossattn.to(self.computation_dtype)
        velocity = self.diffusion_model(
            xc,
            self.predictor.timestep(t).float(),
            context=context,
            transformer_options=transformer_options or {},
            control=control,
            **({} if y is None else {"y": y.to(self.computation_dtype)}),
        ).float()
        return self.predictor.calculate_denoised(t, velocity, x)
