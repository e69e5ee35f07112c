"""`segtrain describe`: whole commands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def described(run_cli: RunCli) -> Callable[..., dict]:
    """`described(*words) -> what was printed`, by format=json."""

    def run(*words: str):
        code, out, err = run_cli("describe", "format=json", *words)
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


def test_a_model_is_told_in_tables(run_cli: RunCli):
    code, out, err = run_cli("describe", "model=unet", "model/backbone=resnet18", "size=[256,320]", "num_classes=7")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "unet over resnet18: 1 image of 256 x 320 x 3, 7 classes, fp32"
    assert "layer4       512      32     8 x 10        435 x 435" in lines
    assert any(line.startswith("logits         7       1  256 x 320") for line in lines)
    assert any(line.startswith("parameters ") and "11.18 M" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_numbers_of_resnet18(described):
    """11.2 M parameters without the classifier; torchvision's 1.814 G multiply-accumulates hold 0.5 M for it."""
    told = described("model=unet", "model/backbone=resnet18", "size=[224,224]")
    assert [stage["stride"] for stage in told["stages"]] == [2, 4, 8, 16, 32, 1]
    assert told["parameters"]["backbone"] == 11_176_512
    assert told["macs"]["backbone"] == 1_814_073_344 - 512_000
    assert told["parameters"]["total"] == told["trainable"]


def test_the_receptive_field_of_fcn(described):
    """Long et al. 2015, arXiv:1411.4038, Table 1: 404 pixels at stride 32 for VGG-16 made convolutional."""
    told = described("model=fcn8s", "size=[64,64]")
    assert told["stages"][-2]["receptive_field"] == [404, 404]


def test_the_batch_multiplies_work_and_the_size_does_so_with_its_area(described):
    one, eight = described("model=unet_light"), described("model=unet_light", "batch_size=2", "size=[1024,1024]")
    assert eight["macs"]["total"] == 8 * one["macs"]["total"]
    assert eight["memory"]["training"] == pytest.approx(8 * one["memory"]["training"], rel=1e-3)


def test_auxiliary_heads_and_frozen_parts_are_counted(described):
    told = described("model=unet_light", "model/aux=fcn", "model.frozen=[backbone]")
    parameters = told["parameters"]
    assert parameters["auxiliary"] > 0
    assert parameters["total"] == parameters["backbone"] + parameters["decoder"] + parameters["auxiliary"]
    assert told["macs"]["auxiliary"] is None
    assert told["trainable"] == told["parameters"]["total"] - told["parameters"]["backbone"]


def test_a_comparison_says_that_it_leaves_auxiliary_heads_out(run_cli: RunCli):
    _, plain, _ = run_cli("describe", "compare=[unet_light]", "size=[64,64]")
    _, helped, _ = run_cli("describe", "compare=[unet_light]", "size=[64,64]", "model/aux=fcn")
    assert plain.splitlines()[4].split()[:6] == helped.splitlines()[4].split()[:6]  # model ... parameters, M, MACs
    assert ["auxiliary heads: left out" in out for out in (plain, helped)] == [False, True]


def test_training_takes_no_less_memory_than_inference_with_a_frozen_backbone(described):
    memory = described("model=fcn8s", "model.frozen=[backbone]", "size=[64,64]")["memory"]
    assert memory["training"] >= memory["inference"]


def test_a_network_for_images_of_one_size_is_described_in_that_size(described):
    pytest.importorskip("timm")
    words = ("model=upernet", "model/backbone=timm", "model.backbone.name=coatnet_0_224")
    assert described(*words, "size=[224,224]")["stages"][-1]["receptive_field"] == ["whole image", "whole image"]


def test_no_weights_are_read(described):
    described("model=unet_light", "model.backbone.weights=/nowhere/at/all.pth")


def test_models_side_by_side_with_the_other_overrides_applied_to_each(described):
    words = ("model.batch_norm=true", "in_channels=4", "size=[64,64]")
    both = described("compare=[unet,unet/resnet34]", "model/backbone=resnet18", *words)
    assert [(one["model"], one["backbone"]) for one in both] == [("unet", "resnet18"), ("unet", "resnet34")]
    alone = described("model=unet", "model/backbone=resnet34", *words)
    assert both[1] == alone


def test_a_comparison_has_a_line_for_each(run_cli: RunCli):
    code, out, _ = run_cli("describe", "compare=[unet,unet_light/resnet34]", "size=[64,64]")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[4:6]] == [["unet", "unet"], ["unet_light", "resnet34"]]
    assert max(map(len, out.splitlines())) <= 120


def test_users_own_configs_can_be_described_and_compared(run_cli: RunCli, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text(
        "# A narrow U-Net.\ndefaults: [unet_light, _self_]\ndecoder_channels: [8, 8, 8, 8, 8]\n"
    )
    code, out, err = run_cli("describe", "--config-dir", tmp_path, "compare=[narrow,unet_light]", "size=[64,64]")
    assert (code, err) == (0, "")
    assert "narrow " in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["size=[512]"], "size=[512]: give height and width in pixels, such as size=[512,512]"),
        (["size=[0,64]"], "size=[0, 64]: give height and width"),
        (["size=big"], "size='big' is not a list, each an int"),
        (["batch_size=0"], "batch_size=0: must be at least 1"),
        (["precision=bf15"], "precision='bf15' is not one of 'fp32', 'bf16', 'fp16'"),
        (["model=unett"], "model=unett: no such option; did you mean 'unet'?"),
        (["compare=[unet,unett]"], "compare=unett: model=unett: no such option; did you mean 'unet'?"),
        (["compare=[unet/resnet19]"], "compare=unet/resnet19: model/backbone=resnet19: no such option; did you mean"),
        (["compare=[unet/]"], "compare=unet/: write MODEL or MODEL/BACKBONE, such as unet/resnet50"),
        (["compare=[unet]", "model.upsampling=cubic"], "compare=unet: model.upsampling='cubic' is not one of"),
        (["model.backbone.widths=3"], "no config key 'model.backbone.widths'"),
        (["trainer.precision=bf16"], "no config key 'trainer.precision'; did you mean 'precision'?"),
        (["model.batchnorm=true"], "no config key 'model.batchnorm'; did you mean 'model.batch_norm'?"),
        (["optimizer.lr=1"], "no config key 'optimizer.lr'"),
        (["data=voc"], "group 'data' is not part of this config"),
        (["experiment=demo"], "group 'experiment' is not part of this config"),
        (["+data=shapes"], "data: `describe` reads its own keys and those of the model only"),
        (["+sizes=[64,64]"], "sizes: `describe` reads its own keys and those of the model only; did you mean 'size'?"),
        (
            ["model._target_=torch.nn.Identity"],
            "model._target_=torch.nn.modules.linear.Identity: only a segtrain SegmentationModel, which tells its "
            "backbone from its decoder, can be described",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_cli: RunCli, words: list[str], said: str):
    code, out, err = run_cli("describe", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"segtrain: error: {said}")
    assert "Traceback" not in err
