"""What every model's config says: auxiliary heads, norms, frozen parts, activation checkpointing."""

import copy

import pytest
import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.losses import Criterion, CrossEntropy
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.base import SegmentationModel
from segtrain.nn.norm import SyncBatchNorm


class Head(SegmentationModel):
    """A classifier on the deepest feature."""

    def __init__(self, backbone, num_classes=3):
        super().__init__(backbone, num_classes)
        self.classifier = nn.Conv2d(backbone.deepest.channels, num_classes, 1)

    def decode(self, features, size):
        return self.classifier(features[self.backbone.deepest.name])


FCN_HEAD = AuxiliaryOptions(feature="penultimate", weight=0.4, head="fcn", dropout=0.0)


@pytest.fixture
def model(tiny_backbone):
    torch.manual_seed(0)
    return Head(tiny_backbone())


@pytest.fixture
def images():
    return torch.randn(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))


def adapted(model, heads=None, **options):
    adapt(model, ModelOptions(**options), heads or {})
    return model


@pytest.mark.parametrize("kind", ["fcn", "googlenet"])
def test_auxiliary_heads_give_logits_in_training_only(model, images, kind):
    adapted(model, {"side": AuxiliaryOptions(feature="early", weight=0.3, head=kind, dropout=0.5)})
    output = model.train()(images)
    assert {name: logits.shape for name, logits in output.aux.items()} == {"side": output.logits.shape}
    assert model.eval()(images).aux == {}


def test_the_loss_of_an_auxiliary_head_counts_by_its_weight(model, images):
    adapted(model, {"side": FCN_HEAD})
    labels = torch.randint(0, 3, (2, 17, 21))
    cross_entropy = CrossEntropy(3, 255, None, 0.0)
    output = model.train()(images)
    loss = Criterion(cross_entropy, model.aux_weights)(output, labels)
    expected = cross_entropy(output.logits, labels) + 0.4 * cross_entropy(output.aux["side"], labels)
    torch.testing.assert_close(loss.total, expected)


def test_evaluation_logits_are_the_same_with_and_without_auxiliary_heads(model, images):
    expected = model.eval()(images).logits
    assert torch.equal(adapted(model, {"side": FCN_HEAD}).eval()(images).logits, expected)


def test_penultimate_is_the_feature_before_the_deepest(model):
    assert adapted(model, {"side": FCN_HEAD}).auxiliary["side"].feature == "early"


def test_a_head_on_a_feature_that_is_not_there_names_those_that_are(model):
    head = AuxiliaryOptions(feature="lat", weight=0.4, head="fcn", dropout=0.0)
    with pytest.raises(ConfigError, match=r"^model.aux.side: .*no feature called 'lat'.*did you mean 'late'"):
        adapted(model, {"side": head})


@pytest.mark.parametrize(("options", "key"), [({"weight": 0.0}, "weight=0.0"), ({"dropout": 1.0}, "dropout=1.0")])
def test_impossible_numbers_of_a_head_are_refused(options, key):
    with pytest.raises(ConfigError, match=key):
        AuxiliaryOptions(**{"feature": "late", "weight": 0.4, "head": "fcn", "dropout": 0.0} | options)


def test_a_frozen_part_neither_learns_nor_changes_in_training(model, images):
    adapted(model, frozen=["backbone.early"])
    before = copy.deepcopy(model.backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()(images).logits.square().mean().backward()
    optimizer.step()
    after = model.backbone.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"late"}


def test_a_frozen_part_is_in_evaluation_mode_whatever_the_model_is_told(tiny_backbone, images):
    model = adapted(Head(tiny_backbone(dropout=0.9)), frozen=["backbone"]).train()
    assert torch.equal(model.backbone(images)["early"], model.backbone(images)["early"])
    assert model.training
    assert not model.backbone.early.training


def test_frozen_norms_keep_their_statistics_while_the_convolutions_learn(model, images):
    adapted(model, frozen_norm=["backbone"])
    before = copy.deepcopy(model.backbone.early[0].norm.state_dict())
    model.train()(images).logits.square().mean().backward()
    after = model.backbone.early[0].norm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.backbone.early[0].norm.weight.grad is None
    assert model.backbone.early[0].conv.weight.grad.any()


def test_a_part_that_is_not_there_is_named_with_the_nearest(model):
    with pytest.raises(ConfigError, match=r"model.frozen: .*'backbone.earl'.*did you mean 'backbone.early'"):
        adapted(model, frozen=["backbone.earl"])


def test_group_norm_takes_the_place_of_every_batch_norm(model, images):
    adapted(model, {"side": FCN_HEAD}, norm="group")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert model.backbone.early[0].norm.num_groups == 4  # of two channels each, where 32 are too many
    each = torch.cat([model.train()(image[None]).logits for image in images])
    torch.testing.assert_close(model(images).logits, each)  # every image by itself


def test_synchronised_norms_compute_what_batch_norms_do_in_one_process(model, images):
    expected = copy.deepcopy(model).train()(images).logits
    adapted(model, norm="sync")
    assert isinstance(model.backbone.early[0].norm, SyncBatchNorm)
    torch.testing.assert_close(model.train()(images).logits, expected)
    assert model(images[:1, :, :1, :1]).logits.isfinite().all()  # one value per channel


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_activation_checkpointing_changes_no_gradient_no_statistic_and_no_random_draw(tiny_backbone, images, dropout):
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = adapted(Head(tiny_backbone(dropout=dropout)), activation_checkpointing=recompute).train()
        model(images).logits.square().mean().backward()
        gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
        states.append(model.state_dict() | gradients)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_activation_checkpointing_keeps_less_for_the_backward_pass(model, images):
    def saved_values():
        count = 0

        def pack(x):
            nonlocal count
            count += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.train()(images)
        return count

    plain = saved_values()
    adapted(model, activation_checkpointing=True)
    assert saved_values() < 2 / 3 * plain


def test_another_module_takes_no_such_option():
    adapt(nn.Conv2d(3, 2, 1), ModelOptions(), {})
    with pytest.raises(ConfigError, match=r"model.frozen: Conv2d is no segtrain.models.base.SegmentationModel"):
        adapt(nn.Conv2d(3, 2, 1), ModelOptions(frozen=["weight"]), {})
