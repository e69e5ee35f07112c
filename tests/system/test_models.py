"""Whole commands with what every model's config can say: auxiliary heads, weights of other frameworks, bad values."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
HEADS = ("model/backbone=resnet18", "model/aux=fcn", "model.decoder_channels=[8,8,8,4,4]")
TINY_DATA = tuple(word for word in TINY if not word.startswith("model"))


@pytest.fixture(scope="module")
def with_heads(train_model: Callable[..., Path]) -> Path:
    return train_model("model=unet_light", *HEADS)


@pytest.fixture(scope="module")
def train_model(run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(*overrides: str) -> Path:
        directory = tmp_path_factory.mktemp("runs") / "run"
        steps = ("trainer.max_steps=2", "trainer.evaluate_every=2")
        code, out, err = run_cli("train", *TINY_DATA, *steps, f"run_dir={directory}", *overrides)
        assert code == 0, out + err
        return directory

    return run


def test_an_auxiliary_head_trains_and_its_loss_is_logged(with_heads: Path) -> None:
    lines = [json.loads(line) for line in (with_heads / "metrics.jsonl").read_text().splitlines()]
    assert any("aux_stage4" in key for line in lines for key in line)
    assert any(name.startswith("auxiliary.") for name in checkpoint.load(with_heads / "checkpoints/last.pt")["model"])


def test_evaluation_and_prediction_have_no_use_for_auxiliary_heads(with_heads: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("evaluate", f"checkpoint={with_heads / 'checkpoints/last.pt'}")
    assert code == 0, out + err


def test_a_frozen_auxiliary_head_is_no_part_of_what_is_evaluated(
    train_model: Callable[..., Path], run_cli: RunCli
) -> None:
    run = train_model("model=unet_light", *HEADS, "model.frozen=[auxiliary.stage4]")
    code, out, err = run_cli("evaluate", f"checkpoint={run / 'checkpoints/last.pt'}")
    assert code == 0, out + err


def test_a_checkpoint_takes_no_other_weights(with_heads: Path, run_cli: RunCli) -> None:
    checkpoint_file = with_heads / "checkpoints/last.pt"
    code, _, err = run_cli("evaluate", f"checkpoint={checkpoint_file}", "model.backbone.weights=imagenet")
    assert (code, err.count("\n")) == (2, 1)
    assert "model.backbone.weights=imagenet: the weights are the checkpoint's own" in err


def test_a_run_with_auxiliary_heads_goes_on(with_heads: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("train", f"resume={with_heads}", "trainer.max_steps=3")
    assert code == 0, out + err


def test_a_trained_checkpoint_starts_another_training(with_heads: Path, train_model: Callable[..., Path]) -> None:
    weights = f"model.weights={with_heads / 'checkpoints/best.pt'}"
    run = train_model("model=unet_light", *HEADS[::2], weights)
    assert "(segtrain): " in (run / "train.log").read_text()


def test_convert_writes_what_training_loads(run_cli: RunCli, train_model: Callable[..., Path], tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=7, decoder_channels=[8, 8, 8, 4, 4])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = ("model=unet_light", *HEADS[::2])
    code, out, err = run_cli(
        "convert", *model, f"model.weights={tmp_path / 'theirs.pth'}", "num_classes=7", f"output={tmp_path / 'ours.pt'}"
    )
    assert code == 0, out + err
    assert "names of segmentation_models.pytorch; 182 of 182 tensors match\n" in out, out
    written = checkpoint.load(tmp_path / "ours.pt")["model"]
    assert torch.equal(written["backbone.conv1.weight"], theirs.state_dict()["encoder.conv1.weight"])
    train_model(*model, f"model.weights={tmp_path / 'ours.pt'}")


def test_convert_lists_what_does_not_match_and_writes_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.save(smp.Unet("resnet34", encoder_weights=None, classes=6).state_dict(), tmp_path / "theirs.pth")
    code, out, err = run_cli(
        *("convert", "model=unet_light", f"model.weights={tmp_path / 'theirs.pth'}"),
        *("num_classes=6", f"output={tmp_path / 'ours.pt'}"),
    )
    assert code == 2
    assert "  only in the file: backbone.layer1.2.conv1.weight\n" in out
    assert "does not fit" in err
    assert not (tmp_path / "ours.pt").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("model=unet_light", "model.norm=layer"), r"model.norm='layer' is not one of 'batch', 'sync', 'group'"),
        (("model=unet_light", "model.frozen=[backbon]"), r"model.frozen: .*did you mean 'backbone'"),
        (
            ("model=unet_light", "model/aux=googlenet"),
            r"model.aux.inception4a: ResNet has no feature called 'inception4a'",
        ),
        (
            ("model=unet_light", "model/aux=fcn", "model.aux.stage4.weight=0"),
            r"error: model.aux.stage4.weight=0: must be above 0",
        ),
        (
            ("model=unet_light", "model/aux=fcn", "model.aux.stage4.head=psp"),
            r"model.aux.stage4.head='psp' is not one of",
        ),
        (("model=unet_light", "model.weights=nowhere.pth"), r"model.weights: no file 'nowhere.pth'"),
        (
            ("model=unet", "model.backbone.channels=[4,8]", "model.aux={}", "model.weights=imagenet"),
            r"model.weights: no file",
        ),
        (("model=unet_light", "+model.aux.keys.feature=late"), r"model.aux.keys: a head cannot be called 'keys'"),
        (("model=unet_light", "model.aux=null"), r"model.aux=None is not a mapping"),
        (("model=unet_light", "model.weights_key=ema"), r"model.weights_key: set model.weights=FILE too"),
        (("model=unet_light", "model.frozen=[backbone,decoder,head]"), r"model.frozen=.*leaves no parameter to train"),
        (("model=unet", "model.norm=group"), r"model.norm=group: this network has no BatchNorm"),
        (("model=unet", "model.frozen_norm=[backbone]"), r"model.frozen_norm=.*UNetEncoder has no norms"),
        (("model=fcn32s", "model/backbone=unet"), r"model.finest_stride=32: UNetEncoder ends at stride 16"),
        (
            ("model=deeplabv3plus", "model/backbone=unet"),
            r"model.backbone.output_stride: UNetEncoder has no such option",
        ),
    ],
)
def test_what_a_model_cannot_be_is_one_line(
    words: tuple[str, ...], expected: str, run_cli: RunCli, tmp_path: Path
) -> None:
    code, _, err = run_cli("train", *TINY_DATA, *words, cwd=tmp_path)
    assert code == 2, err
    (line,) = err.removesuffix("\n").splitlines()
    assert re.search(expected, line), line
    assert list(tmp_path.iterdir()) == []
