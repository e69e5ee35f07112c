"""One logit for two classes."""

import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.types import ModelOutput


def give_two_logits(model: nn.Module) -> None:
    """Makes a model of one channel z answer with the logits [0, z] of background and foreground, auxiliary ones too.

    Their softmax is the sigmoid of z, and their cross-entropy is binary cross-entropy: whatever comes after the model
    need not know that there is but one channel.

    It is done by a forward hook and not by a module around the model, so that the names of its parameters and all that
    its class has (`backbone`, `aux_weights`) stay: weights and checkpoints are those of a model with one class.

    Args:
        model: built with `num_classes=1`, of segtrain's own or of the user's; returns `ModelOutput`.
    """
    model.register_forward_hook(_with_background)


def _with_background(model: nn.Module, images: tuple[Tensor, ...], output: ModelOutput) -> ModelOutput:
    aux = {name: _two_logits(logits, model) for name, logits in output.aux.items()}
    return ModelOutput(_two_logits(output.logits, model), aux)


def _two_logits(logits: Tensor, model: nn.Module) -> Tensor:
    """[N, 1, H, W] -> [N, 2, H, W]."""
    if logits.shape[1] != 1:
        raise ConfigError(
            f"model: {type(model).__name__} gives {logits.shape[1]} channels of logits; with data.task=binary it must "
            "give one, as the num_classes=1 that it is built with says"
        )
    return torch.cat([torch.zeros_like(logits), logits], dim=1)
