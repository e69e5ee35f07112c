"""Networks as training leaves them, and rules that several backbones keep."""

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def as_trained():
    """`as_trained(net)`: in evaluation, BatchNorm's statistics drawn; fresh ones are the identity and hide errors."""

    def draw(net):
        torch.manual_seed(0)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
        return net.eval()

    return draw


@pytest.fixture(scope="session")
def save(tmp_path_factory):
    """`save(net) -> path` of its state dict."""

    def write(net):
        path = tmp_path_factory.mktemp("weights") / "net.pth"
        torch.save(net.state_dict(), path)
        return str(path)

    return write


@pytest.fixture(scope="session")
def assert_dilated_equals_strided():
    """`(strided, dilated)`: one network at two output strides gives the same maps at the pixels both compute."""

    @torch.no_grad()
    def check(strided, dilated):
        dilated.load_state_dict(strided.state_dict())
        images = torch.randn(1, 3, 65, 97)
        coarse, fine = strided.eval()(images), dilated.eval()(images)
        for before, after in zip(strided.features, dilated.features, strict=True):
            step = before.stride // after.stride
            torch.testing.assert_close(fine[after.name][..., ::step, ::step], coarse[before.name], atol=1e-5, rtol=1e-5)

    return check


@pytest.fixture(scope="session")
def assert_recomputing_changes_no_gradient():
    """`(backbone, images)`: with `recompute` the same gradients, thus random draws (dropout, skipped blocks) too."""

    def check(backbone, images):
        gradients = []
        for recompute in (False, True):
            backbone.recompute = recompute
            backbone.zero_grad()
            torch.manual_seed(0)
            sum(x.square().mean() for x in backbone(images).values()).backward()
            gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
        torch.testing.assert_close(*gradients, rtol=0, atol=0)

    return check
