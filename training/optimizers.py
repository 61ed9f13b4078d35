"""AdamW, or Muon for the hidden matrices and kernels with AdamW for the rest."""

from typing import Any

import torch
from torch import Tensor, nn

from sam_server.network.sam import Sam

OPTIMIZERS = ("adamw", "muon")
ADAM_BETAS = (0.9, 0.98)
# Names of parts that Muon leaves to AdamW, as its authors advise: the first layer and the last ones.
OUTER_LAYERS = ("image_encoder.stem", "mask_downscaling", "layers.2.")
# Steps of the iteration that makes an update orthogonal.
MUON_STEPS = 4


class KernelMuon(torch.optim.Muon):
    """Muon, which wants matrices, for convolutions too: a kernel (O, I, h, w) counts as a matrix (O, I * h * w).

    The learning rate is that of AdamW: updates are scaled to the same size (Liu et al. 2025, Muon is Scalable).
    """

    def __init__(self, kernels: list[nn.Parameter], weight_decay: float) -> None:
        self.kernels = kernels
        # Views of the parameters: a step on a view moves the parameter itself.
        self.matrices = [nn.Parameter(kernel.detach().view(len(kernel), -1)) for kernel in kernels]
        super().__init__(
            self.matrices, lr=0.0, weight_decay=weight_decay, ns_steps=MUON_STEPS, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, closure: Any = None) -> Any:
        """One step with the gradients of the kernels."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        return super().step(closure)


def make_optimizers(sam: Sam, name: str, decay: float) -> list[torch.optim.Optimizer]:
    """The optimisers of a model, each with learning rate 0.

    Args:
        sam: parameters; matrices and kernels decay, biases, norms and embeddings do not.
        name: "adamw" for all, or "muon" for hidden matrices and kernels and AdamW for the rest.
        decay: weight decay.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    hidden: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for key, parameter in sam.named_parameters():
        if parameter.ndim < 2 or "token" in key or "embed." in key or "point_embeddings" in key:
            rest.append(parameter)
        elif name == "muon" and not _is_outer(key, parameter):
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=ADAM_BETAS)
    return [adam, KernelMuon(hidden, decay)] if hidden else [adam]


def _is_outer(key: str, parameter: Tensor) -> bool:
    """First and last layers, and depthwise kernels, whose rows have nothing to do with each other."""
    depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
    return depthwise or any(part in key for part in OUTER_LAYERS)
