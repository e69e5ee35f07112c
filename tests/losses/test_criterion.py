"""Weighted sums, auxiliary heads, and the names under which terms are logged."""

import pytest
import torch

from segtrain.errors import ConfigError
from segtrain.losses import Criterion, CrossEntropy, Dice, WeightedSum
from segtrain.types import ModelOutput


@pytest.fixture
def cross_entropy():
    return CrossEntropy(3, 255, class_weights=[1.0, 2.0, 3.0], label_smoothing=0.0)


@pytest.fixture
def dice():
    return Dice(3, 255, smooth=1.0)


@pytest.fixture
def weighted_sum(cross_entropy, dice):
    return WeightedSum({"pixels": {"weight": 2.0, "loss": cross_entropy}, "regions": {"weight": 0.5, "loss": dice}})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits, aux = torch.randn(2, 1, 3, 4, 4, generator=generator)
    return logits.requires_grad_(), aux, torch.randint(0, 3, (1, 4, 4), generator=generator, dtype=torch.uint8)


def test_weighted_sum_weighs_its_terms(weighted_sum, cross_entropy, dice, batch):
    logits, _, labels = batch
    expected = 2.0 * cross_entropy(logits, labels) + 0.5 * dice(logits, labels)
    torch.testing.assert_close(weighted_sum(logits, labels), expected)


def test_single_loss_is_named_after_its_class(cross_entropy, batch):
    logits, _, labels = batch
    total, terms = Criterion(cross_entropy, {})(ModelOutput(logits, {}), labels)
    assert list(terms) == ["cross_entropy"]
    assert terms["cross_entropy"] == total == cross_entropy(logits, labels)


def test_terms_are_unweighted_and_detached_while_the_total_has_a_graph(weighted_sum, cross_entropy, dice, batch):
    logits, _, labels = batch
    total, terms = Criterion(weighted_sum, {})(ModelOutput(logits, {}), labels)
    assert terms == {"pixels": cross_entropy(logits, labels), "regions": dice(logits, labels)}
    assert not any(term.requires_grad for term in terms.values())
    assert total.requires_grad


def test_auxiliary_heads_add_their_weighted_loss(weighted_sum, batch):
    logits, aux, labels = batch
    total, terms = Criterion(weighted_sum, {"fcn": 0.4})(ModelOutput(logits, {"fcn": aux}), labels)
    torch.testing.assert_close(total, weighted_sum(logits, labels) + 0.4 * weighted_sum(aux, labels))
    assert terms["aux_fcn"] == weighted_sum(aux, labels)


def test_without_auxiliary_logits_the_main_head_stands_alone(cross_entropy, batch):
    logits, _, labels = batch
    total, _ = Criterion(cross_entropy, {"fcn": 0.4})(ModelOutput(logits, {}), labels)
    assert total == cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("weights", "message"), [({}, "'fcn' has no weight"), ({"fcn": 1.0, "fnc": 1.0}, r"aux_weights\.fnc.*mean 'fcn'")]
)
def test_heads_and_weights_must_match(cross_entropy, batch, weights, message):
    logits, aux, labels = batch
    with pytest.raises(ConfigError, match=message):
        Criterion(cross_entropy, weights)(ModelOutput(logits, {"fcn": aux}), labels)


def test_class_weights_travel_in_the_criterions_state(weighted_sum):
    (weights,) = Criterion(weighted_sum, {}).state_dict().values()
    assert weights.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "terms: empty"),
        ({"dice": {"loss": None}}, r"terms\.dice: weight is missing"),
        ({"dice": {"wieght": 1.0, "loss": None}}, r"terms\.dice\.wieght.*mean 'weight'"),
        ({"dice": {"weight": -1.0, "loss": None}}, r"terms\.dice\.weight: -1\.0"),
        ({"dice": {"weight": "much", "loss": None}}, r"terms\.dice\.weight: 'much'"),
    ],
)
def test_wrong_terms_are_named(terms, message):
    with pytest.raises(ConfigError, match=message):
        WeightedSum(terms)
