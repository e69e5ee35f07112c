"""Which parameter learns at which rate, and which decays."""

import math
from typing import Any

from torch import nn

from segtrain.errors import ConfigError


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, backbone_lr_multiplier: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """The trainable parameters of a model, each exactly once, as groups for any torch.optim optimizer.

    Groups are named `backbone`, `backbone_no_decay`, `decoder`, `decoder_no_decay` (`model`, `model_no_decay` where
    the model has no `backbone`), in this order, empty ones left out. Each has `name`, `params`, `lr`, `initial_lr`
    (what the schedule scales) and `weight_decay`; torch keeps the extra keys and saves them with the optimizer.

    Args:
        model: its `backbone`, if any, is what `backbone_lr_multiplier` means.
        lr: learning rate, above 0.
        weight_decay: at least 0.
        backbone_lr_multiplier: the backbone's learning rate as a multiple of `lr`, at least 0.
        decay_norm_and_bias: decay the parameters of norms and the biases too. They are told by having at most one
            dimension; decay pulls them towards 0 without limiting what the network can express.

    Raises:
        ConfigError: a value out of range; a multiplier for a model without backbone; nothing to train.
    """
    backbone = getattr(model, "backbone", None)
    if not 0 < lr < math.inf:
        raise ConfigError(f"lr: {lr} must be above 0 and finite")
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"weight_decay: {weight_decay} must be at least 0")
    if not 0 <= backbone_lr_multiplier < math.inf:
        raise ConfigError(f"backbone_lr_multiplier: {backbone_lr_multiplier} must be at least 0")
    if backbone is None and backbone_lr_multiplier != 1:
        raise ConfigError(
            f"backbone_lr_multiplier: {backbone_lr_multiplier}, but {type(model).__name__} has no backbone; set it to 1"
        )

    in_backbone = set() if backbone is None else {id(parameter) for parameter in backbone.parameters()}
    rest = "model" if backbone is None else "decoder"
    groups: dict[str, dict[str, Any]] = {}
    for part, part_lr in (("backbone", lr * backbone_lr_multiplier), (rest, lr)):
        for suffix, decay in (("", weight_decay), ("_no_decay", 0.0)):
            name = part + suffix
            groups[name] = {"name": name, "params": [], "lr": part_lr, "initial_lr": part_lr, "weight_decay": decay}

    for parameter in model.parameters():  # yields a shared parameter once
        if parameter.requires_grad:
            part = "backbone" if id(parameter) in in_backbone else rest
            decays = decay_norm_and_bias or parameter.ndim > 1
            groups[part if decays else f"{part}_no_decay"]["params"].append(parameter)

    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter; every one is frozen")
    return filled
