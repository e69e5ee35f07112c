"""Whole commands given something wrong: exit code 2, one clear line, no traceback, and nothing that looks finished."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain.data import dataset, reading
from segtrain.engine import checkpoint
from segtrain.engine.run_directory import read_json
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
Damage = Callable[[Path], object]


@pytest.fixture
def refused(run_cli: RunCli, tmp_path: Path) -> Callable[..., str]:
    """`refused(*argv) -> message` of a command that ends in exit code 2, run in an empty folder that stays empty."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*argv: object) -> str:
        code, _, err = run_cli(*argv, cwd=here)
        assert code == 2, err
        assert "Traceback" not in err
        assert err.startswith("segtrain: error: "), err
        assert list(here.iterdir()) == []
        return err.removeprefix("segtrain: error: ").removesuffix("\n")

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four images of 64x64 pixels with index masks of two classes, as data=folder wants them."""
    return write_pictures(tmp_path / "pictures")


def write_pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
        Image.fromarray(rng.integers(0, 2, (64, 64), dtype=np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\nd\n")
    return root


def folder_data(root: Path, *more: str) -> list[str]:
    """The words for a tiny training on `pictures`: a and b in train, c and d in val."""
    of_any_data = [
        word for word in TINY if not word.startswith(("data", "trainer.max_steps", "trainer.evaluate_every"))
    ]
    return [
        *of_any_data,
        *("data=folder", f"data.root={root}", "data.classes=[a,b]", "data.batch_size=2", "data.workers=0"),
        *("data.splits={train: train.txt, val: val.txt}", "trainer.max_steps=2", *more),
    ]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The configuration.

TWO_CLASSES = "data.classes=[background,disc] data.palette=null"
WRONG_CONFIGURATIONS = [
    # unknown names, at several depths
    ("modl=unet", "no config key 'modl'; did you mean 'model'?"),
    ("trainer.max_step=3", "no config key 'trainer.max_step'; did you mean 'trainer.max_steps'?"),
    ("model.backbone.chanels=[4]", "'model.backbone.chanels'; did you mean 'model.backbone.channels'?"),
    ("augment.train.blur.sigma_limt=1", "did you mean 'augment.train.blur.sigma_limit'?"),
    ("+optimizer.nestrov=true", "optimizer.nestrov: AdamW has no such option"),
    ("+trainer.acumulate=2", "trainer.acumulate: trainer has no such option; did you mean 'accumulate'?"),
    ("+data.batchsize=2", "data.batchsize: Shapes has no such option"),
    ("model=unett", "model=unett: no such option; did you mean 'unet'?"),
    ("optimzer=sgd", "no config key 'optimzer'; did you mean 'optimizer'?"),
    ("model/bakbone=resnet18", "'model/bakbone'; did you mean 'model/backbone'?"),
    ("model/backbone=resnet19", "model/backbone=resnet19: no such option; did you mean 'resnet18'?"),
    ("model=null", "model=null: the value must be the name of one of its options (deeplabv1, "),
    ("data=3", "data=3: the value must be the name of one of its options (camvid"),
    # wrong types
    ("trainer.max_steps=abc", "trainer.max_steps='abc' is not an int or null"),
    ("trainer.max_steps=1.5", "trainer.max_steps=1.5 is not an int or null"),
    ("optimizer.lr=fast", "optimizer.lr='fast' is not a number"),
    ("optimizer.betas=[0.9]", "optimizer.betas=[0.9] is not a list [a number, a number]"),
    ("augment.crop_size=5", "augment.train.crop.size=5 is not a list, each an int (size: ${augment.crop_size})"),
    ("data.size=64", "data.size=64 is not a list"),
    ("data.std=[1,1,a]", "data.std=[1, 1, 'a'] is not a list, each a number"),
    ("seed=abc", "seed='abc' is not an int"),
    ("seed=null", "seed=None is not an int"),
    ("output_root=5", "output_root=5 is not a string"),
    ("debug=maybe", "debug='maybe' is not true or false"),
    ("augment.train=null", "augment.train=None: name the transforms there, or write {} for none"),
    ("augment.train.flip=3", "augment.train.flip=3: a transform is {_target_:"),
    ("~optimizer.lr", "optimizer.lr is missing"),
    # values out of range, or that do not go together
    ("data.batch_size=0", "data.batch_size=0: give 1 or more"),
    ("data.max_skipped=-1", "data.max_skipped=-1: give 0 or more"),
    ("data.on_error=ignore", "data.on_error='ignore' is not one of 'raise', 'skip'"),
    ("optimizer.lr=-1", "optimizer.lr: -1 must be above 0"),
    ("optimizer.lr=inf", "optimizer.lr: inf must be above 0 and finite"),
    ("optimizer.eps=-1", "optimizer: AdamW refused its arguments: Invalid epsilon value: -1"),
    ("seed=-1", "seed=-1 must be in [0, 2^63)"),
    ("augment.crop_size=[0,64]", "augment.train.crop.size=[0, 64] is not [height, width]"),
    (
        "augment.train.flip.p=2",
        "augment.train.flip: HorizontalFlip refused its arguments: p=2: Input should be less than or equal to 1",
    ),
    ("+augment.train.blur.sigma_limt=1", "augment.train.blur.sigma_limt: GaussianBlur has no such option; did you"),
    ("data.std=[0,1,1]", "data.std=[0, 1, 1]: a standard deviation must be positive"),
    ("data.mean=[0.5]", "data.mean=[0.5]: 3 value(s) needed, one for each channel"),
    ("trainer.precision=fp8", "trainer.precision='fp8' is not one of 'fp32', 'bf16', 'fp16'"),
    ("trainer.device=cpu trainer.precision=fp16", "trainer.precision=fp16 needs CUDA; use bf16 or fp32"),
    ("trainer.device=tpu", "trainer.device='tpu' is no device; use auto, cpu, cuda or cuda:0"),
    ("trainer.device=cuda:99", "trainer.device=cuda:99 but this machine has"),
    ("trainer.max_epochs=1", "trainer.max_steps=6 and trainer.max_epochs=1: set one of them and the other to null"),
    ("trainer.max_steps=null", "trainer.max_steps=None and trainer.max_epochs=None: set one"),
    ("trainer.max_steps=0", "trainer.max_steps=0 must be at least 1"),
    ("trainer.pictures=-1", "trainer.pictures=-1 must be at least 0"),
    ("schedule.warmup_steps=50", "schedule.warmup_steps: 50 must be at least 0 and less than the run's 6 steps"),
    ("loss.class_weights=balanced", "loss.class_weights=balanced: use null, enet, median_frequency, or a list"),
    (f"{TWO_CLASSES} loss.class_weights=[1]", "loss.class_weights: 1 weights for 2 classes; give one per class"),
    (f"{TWO_CLASSES} loss.class_weights=[1,-1]", "loss.class_weights[1]: -1 is not a weight"),
    (
        "trainer.monitor=mIoU",
        "trainer.monitor=mIoU: no such metric; did you mean 'miou'? (loss, loss/cross_entropy, miou",
    ),
    ("trainer.monitor=iou/dics", "did you mean 'iou/disc'?"),
    ("data.num_train=3", "data.batch_size=4 is larger than the training data of 3 items, and data.drop_last=true"),
    ("data.num_val=0", "data.num_val=0: the data set is empty"),
    ("data.val_split=vall", "data=shapes has the splits train and val, not 'vall'; did you mean 'val'?"),
    ("model.decoder_channels=[8,8]", "model.decoder_channels=[8, 8]: this backbone ends at stride 16 and needs 4"),
    # `_target_`
    ("optimizer._target_=torch.optim.AdamWW", "torch.optim has no class AdamWW; did you mean 'AdamW'?"),
    ("optimizer._target_=nowhere.Adam", "optimizer._target_=nowhere.Adam: module nowhere cannot be imported"),
    ("optimizer._target_=torch.load", "optimizer._target_=torch.load is no torch.optim.optimizer.Optimizer"),
    ("optimizer._target_=torch.nn.ReLU", "optimizer._target_=torch.nn.ReLU is no torch.optim.optimizer.Optimizer"),
    ("model._target_=5", "model._target_=5 is no dotted path to a class"),
    ("model.backbone._target_=torch.nn.ReLU", "torch.nn.ReLU is no segtrain.backbones.base.Backbone"),
    ("augment.train.flip._target_=albumentations.HorizontalFlp", "did you mean 'HorizontalFlip'?"),
    ("augment.train.flip._target_=HorizontalFlip", "is no dotted path to a class"),
    # grammar
    ("trainer.max_steps", "'trainer.max_steps' is not an override: write KEY=VALUE"),
    ("resnet18", "did you mean model/backbone=resnet18?"),
    ("data.size=64,64", "'data.size=64,64' names several values"),
    ("--multi", "--multi"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_CONFIGURATIONS, ids=[words for words, _ in WRONG_CONFIGURATIONS])
def test_a_wrong_configuration_is_one_line(refused: Callable[..., str], words: str, said: str) -> None:
    message = refused("train", *TINY, *words.split())
    assert said in message
    assert "\n" not in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_missing_gpu_is_said_with_what_to_set(refused: Callable[..., str], device: str) -> None:
    message = refused("train", *TINY, f"trainer.device={device}")
    assert message == f"trainer.device={device} but this machine has no CUDA device; use trainer.device=cpu"


def test_all_that_is_wrong_is_said_at_once(refused: Callable[..., str]) -> None:
    wrong = {
        "optimizer.lr=fast": "optimizer.lr='fast'",
        "trainer.max_steps=0": "trainer.max_steps=0 must be",
        "trainer.clip_norm=-1": "trainer.clip_norm=-1 must be",
        "data.batch_size=none": "data.batch_size='none'",
        "loss._target_=torch.load": "loss._target_=torch.load",
        "seed=x": "seed='x'",
        "augment.train.flip.p=2": "augment.train.flip: ",
        "augment.train.colour.p=3": "augment.train.colour: ",
        "+model.backbone.depth=3": "model.backbone.depth: ",
    }
    message = refused("train", *TINY, *wrong)
    assert len(message.splitlines()) == len(wrong), message
    for said in wrong.values():
        assert said in message


def test_debug_shows_the_traceback_above_the_line(run_cli: RunCli) -> None:
    code, _, err = run_cli("train", *TINY, "trainer.device=tpu", "debug=true")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("segtrain: error: trainer.device='tpu'")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'?"),
        ("model=unet", "write for example: segtrain train model=unet"),
        ("--verbose", "unknown option '--verbose'"),
        ("evaluate --split=val", "--split=val"),
        ("train --config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("evaluate", "checkpoint has no value: set checkpoint=..."),
        ("predict checkpoint=x.pt output=o", "input has no value: set input=..."),
    ],
)
def test_a_wrong_command_line_is_one_line(refused: Callable[..., str], argv: str, said: str) -> None:
    message = refused(*argv.split())
    assert said in message
    assert "\n" not in message


# The data, as far as it is looked at before training.


def remove(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def write(name: str, text: str) -> Damage:
    return lambda root: (root / name).write_text(text)


def no_damage(root: Path) -> None:
    pass


def no_images(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()


FRACTIONS = "data.splits={train: 0.5, val: 0.5}"
WRONG_DATA = {
    "no_root": (no_damage, "data.root=ROOT/nowhere", "data.root=ROOT/nowhere: no such folder; data=folder expects"),
    "root_is_a_file": (no_damage, "data.root=ROOT/train.txt", "train.txt: is a file, not a folder; data=folder"),
    "no_folder": (no_damage, "data.images=pictures", "ROOT/pictures: no such folder; data=folder expects the images"),
    "no_split": (no_damage, "data.val_split=test", "split 'test' is not in data.splits (train, val)"),
    "no_list": (remove("val.txt"), "", "val.txt: cannot be read as a split's list (No such file or directory)"),
    "empty_list": (write("val.txt", "\n"), "", "val.txt: the list is empty"),
    "listed_twice": (write("val.txt", "c\nc\n"), "", "val.txt: c is listed twice"),
    "in_two_splits": (write("val.txt", "b\n"), "", "ROOT/train.txt: b is in ROOT/val.txt too"),
    "listed_but_missing": (write("val.txt", "c\nx\n"), "", "1 name (x) in the split without an image in images"),
    "image_without_mask": (remove("masks/c.png"), "", "1 image (c) without a mask in masks"),
    "mask_without_image": (remove("images/c.jpg"), FRACTIONS, "1 mask (c) without an image in images"),
    "no_data": (no_images, FRACTIONS, "ROOT: no image matches data.images=images"),
    "large_batch": (no_damage, "data.batch_size=9", "data.batch_size=9 is larger than the training data of 2 items"),
    "fractions": (no_damage, "data.splits={train: 0.9, val: 0.9}", "fractions are in (0, 1] and add up to 1 or less"),
    "splits_a_list": (no_damage, "data.splits=[1,2]", "data.splits=[1,2]: Cannot merge DictConfig with ListConfig"),
    "label_map": (no_damage, "data.labels={a: [0]}", "data.labels: no source values for b; list them"),
    "classes_a_text": (no_damage, "data.classes=ab", "data.classes='ab' is not a list, each a string"),
    "weights_of_bad_labels": (
        lambda root: paint(root / "masks" / "a.png", 7),
        "loss.class_weights=enet",
        "ROOT/masks/a.png: label value 7 at row 3, column 5, but the data has 2 classes",
    ),
}  # fmt: skip


def paint(path: Path, value: int) -> None:
    """The value at row 3, column 5 of a mask."""
    mask = np.array(Image.open(path))
    mask[3, 5] = value
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize(("damage", "word", "said"), WRONG_DATA.values(), ids=WRONG_DATA)
def test_wrong_data_is_one_line(
    refused: Callable[..., str], pictures: Path, damage: Damage, word: str, said: str
) -> None:
    damage(pictures)
    before = contents(pictures)
    message = refused("train", *folder_data(pictures), *([word.replace("ROOT", str(pictures))] if word else []))
    assert said.replace("ROOT", str(pictures)) in message
    assert "\n" not in message
    assert contents(pictures) == before


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("data=voc data.root=nowhere", "data.root=nowhere: no such folder; data=voc expects ROOT/VOCdevkit/VOC2012/"),
        ("data=voc data.root=..", "data.root=..: no ImageSets/Segmentation in it; data=voc expects"),
        ("data=camvid data.root=nowhere", "data.root=nowhere: no such folder; data=camvid expects ROOT/ with train/"),
        ("data=camvid data.root=..", "../train: no such split; data=camvid expects ROOT/ with train/"),
        ("data=camvid", "data.root has no value: set data.root=..."),
        ("data=folder", "data.classes, data.root have no value: set data.classes=... data.root=..."),
    ],
)
def test_data_sets_say_how_they_must_lie_on_disk(refused: Callable[..., str], data: str, said: str) -> None:
    assert said in refused("train", *data.split())


# Files whose damage shows when they are read, in training or at the first evaluation.


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGED_FILES: dict[str, tuple[str, Damage, str]] = {
    "truncated_jpeg": ("images/a.jpg", halve, "unreadable or truncated"),
    "truncated_png": ("masks/b.png", halve, "unreadable or truncated"),
    "truncated_in_val": ("images/c.jpg", halve, "unreadable or truncated"),
    "text": ("masks/a.png", lambda path: path.write_text("no picture"), "damaged, or not an image of a known format"),
    "empty": ("images/a.jpg", lambda path: path.write_bytes(b""), "damaged, or not an image of a known format"),
    "label": ("masks/b.png", lambda path: paint(path, 7), "label value 7 at row 3, column 5, but the data has 2"),
    "colours": ("masks/a.png", lambda path: Image.open(path).convert("RGB").save(path), "data.mask_format=palette"),
    "size": ("masks/d.png", lambda path: Image.open(path).resize((9, 8), 0).save(path), "d.jpg is 64x64, but its mask"),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGED_FILES.values(), ids=DAMAGED_FILES)
def test_a_damaged_file_ends_the_run_in_one_line_and_nothing_looks_finished(
    run_cli: RunCli, pictures: Path, tmp_path: Path, name: str, damage: Damage, said: str
) -> None:
    damage(pictures / name)
    before = contents(pictures)
    code, _, err = run_cli("train", *folder_data(pictures), f"run_dir={tmp_path / 'run'}")
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("segtrain: error:")]
    assert lines == err.splitlines()[-1:]
    assert str(pictures / name) in lines[0]
    assert said in lines[0]
    assert contents(pictures) == before
    left = {path.name for path in contents(tmp_path / "run")}
    assert not left & {"best.pt", "results.json"}
    assert lines[0].removeprefix("segtrain: error: ") in (tmp_path / "run" / "train.log").read_text()


def test_a_loader_worker_passes_the_line_on(run_cli: RunCli, pictures: Path, tmp_path: Path) -> None:
    halve(pictures / "images" / "a.jpg")
    code, _, err = run_cli("train", *folder_data(pictures), f"run_dir={tmp_path / 'run'}", "data.workers=1")
    assert code == 2, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"segtrain: error: {pictures}/images/a.jpg: unreadable or truncated")


def test_damaged_files_are_skipped_by_choice_and_listed(run_cli: RunCli, pictures: Path, tmp_path: Path) -> None:
    halve(pictures / "images" / "a.jpg")
    halve(pictures / "masks" / "d.png")
    code, _, err = run_cli(
        *("train", *folder_data(pictures), f"run_dir={tmp_path / 'run'}", "data.on_error=skip"),
        "loss.class_weights=median_frequency",
    )
    assert code == 0, err
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count(f"skipped sample a (1 of at most 10): {pictures}/images/a.jpg: unreadable or truncated") == 1
    assert log.count(f"skipped sample d (1 of at most 10): {pictures}/masks/d.png: unreadable or truncated") == 1
    assert read_json(tmp_path / "run" / "results.json")["images"] == 1


def test_more_damaged_files_than_may_be_skipped_end_the_run_with_their_list(
    run_cli: RunCli, pictures: Path, tmp_path: Path
) -> None:
    halve(pictures / "images" / "a.jpg")
    halve(pictures / "masks" / "b.png")
    code, _, err = run_cli(
        *("train", *folder_data(pictures), f"run_dir={tmp_path / 'run'}", "data.on_error=skip", "data.max_skipped=1")
    )
    assert code == 2, err
    assert "Traceback" not in err
    lines = err[err.index("segtrain: error:") :].splitlines()
    assert lines[0] == "segtrain: error: 2 samples could not be read, more than data.max_skipped=1:"
    assert sorted(line.split(": unreadable")[0] for line in lines[1:]) == [
        f"a: {pictures}/images/a.jpg",
        f"b: {pictures}/masks/b.png",
    ]


def test_a_killed_worker_ends_the_run_with_the_sample_it_read_and_exit_code_3(
    run_cli: RunCli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_image(path: Path, *how: Any) -> np.ndarray:
        if path.name == "b.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return reading.read_image(path, *how)

    monkeypatch.setattr(dataset, "read_image", read_image)  # the worker is forked, and has it too
    code, _, err = run_cli("train", *folder_data(pictures), f"run_dir={tmp_path / 'run'}", "data.workers=1")
    assert code == 3, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(
        f"segtrain: error: a loader worker was killed (SIGKILL) while it read sample b ({pictures}/images/b.jpg, "
        f"{pictures}/masks/b.png); "
    )


# Where a run is written, and what it goes on from.


def test_a_run_directory_in_use_is_left_alone(refused: Callable[..., str], finished_run: Path, tmp_path: Path) -> None:
    before = contents(finished_run)
    assert f"go on with it by resume={finished_run}" in refused("train", *TINY, f"run_dir={finished_run}")
    assert contents(finished_run) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "exists and is not empty; name another folder" in refused("train", *TINY, f"run_dir={tmp_path / 'mine'}")
    message = refused("train", *TINY, f"run_dir={tmp_path / 'mine' / 'thesis.txt'}")
    assert "thesis.txt is a file, or inside one; name a folder" in message
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_run_directory_that_cannot_be_made_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused("train", *TINY, f"run_dir={tmp_path / ('x' * 300)}")
    assert "cannot be created (File name too long); name another folder" in message


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A run with nothing but its config and its checkpoints, to be spoilt."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.pt", "checkpoints/best.pt"):
        (run / name).write_bytes((finished_run / name).read_bytes())
    return run


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def both(damage: Callable[[Path], object]) -> Damage:
    """To every checkpoint of a run: one that is sound would be gone on from."""

    def spoil(run: Path) -> None:
        for path in (run / "checkpoints").glob("*.pt"):
            damage(path)

    return spoil


@pytest.mark.parametrize(
    ("damage", "words", "said"),
    [
        (no_damage, "resume=RUN/nowhere", "resume=RUN/nowhere: no such folder; name a run's folder"),
        (no_damage, "resume=RUN/config.yaml", "resume=RUN/config.yaml: no such folder; name a run's folder"),
        (no_damage, "resume=RUN/checkpoints", "resume=RUN/checkpoints: config.yaml is missing; is it a run's folder?"),
        (
            both(lambda path: path.unlink()),
            "resume=RUN",
            "resume=RUN: it holds no checkpoint, so there is nothing to go on",
        ),
        (remove("config.yaml"), "resume=RUN", "resume=RUN: config.yaml is missing; is it a run's folder?"),
        (write("config.yaml", "a: [1"), "resume=RUN", "config.yaml, line 1: not valid YAML"),
        (write("config.yaml", "[1]"), "resume=RUN", "config.yaml: no config of a training"),
        (write("config.yaml", "seed: 1"), "resume=RUN", "config.yaml: no config of a training"),
        (both(flip_a_bit), "resume=RUN", "last.pt: damaged"),
        (both(halve), "resume=RUN", "last.pt: not a segtrain checkpoint, or cut off"),
        (no_damage, "resume=RUN model.decoder_channels=[8,8,8,8]", "last.pt: holds the weights of another model"),
        (no_damage, "resume=RUN optimizer=sgd", "last.pt: holds the state of another optimizer"),
        (no_damage, "resume=RUN data.classes=[background,disc] data.palette=null", "weights of another model"),
        (no_damage, "resume=RUN trainer.max_step=9", "did you mean 'trainer.max_steps'?"),
        (
            no_damage,
            "resume=RUN trainer.max_steps=3",
            "the run would be 3 steps long but has done 6 already; raise trainer",
        ),
        (no_damage, "resume=RUN run_dir=elsewhere", "run_dir: a resumed run stays in RUN"),
    ],
)
def test_what_cannot_be_resumed_is_one_line_and_stays_as_it_is(
    refused: Callable[..., str], copied_run: Path, damage: Damage, words: str, said: str
) -> None:
    damage(copied_run)
    before = contents(copied_run)
    message = refused("train", *words.replace("RUN", str(copied_run)).split())
    assert said.replace("RUN", str(copied_run)) in message
    assert "\n" not in message
    assert contents(copied_run) == before


# Checkpoints.


def saved_again(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A checkpoint file whose contents are changed, with a digest that fits."""

    def damage(path: Path) -> None:
        inside = checkpoint.load(path)
        del inside["schema"]
        change(inside)
        checkpoint.save(inside, path)

    return damage


def name_in_config(section: str, **values: Any) -> Damage:
    return saved_again(lambda inside: inside["config"][section].update(values))


# A model of torch's, so that its arguments can hold a list of nodes.
HIDDEN_WEIGHTS = {
    "_target_": "torch.nn.ModuleList",
    "modules": [
        {
            "_target_": "segtrain.backbones.resnet.ResNet",
            "name": "resnet18",
            "weights": "/etc/hostname",
            "output_stride": 32,
            "dilate_strided": False,
            "multi_grid": None,
            "in_channels": 3,
            "deformable_stages": [],
            "deformable_version": 1,
        }
    ],
}
BAD_CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    "missing": (Path.unlink, "best.pt: no such checkpoint file"),
    "text": (lambda path: path.write_text("no checkpoint"), "best.pt: not a segtrain checkpoint, or cut off"),
    "empty": (lambda path: path.write_bytes(b""), "best.pt: not a segtrain checkpoint, or cut off"),
    "truncated": (halve, "best.pt: not a segtrain checkpoint, or cut off"),
    "bit_flip": (flip_a_bit, "best.pt: damaged: its SHA-256 is not the one it was written with; use another"),
    "plain_torch": (lambda path: torch.save({"a": torch.zeros(1)}, path), "best.pt: not a segtrain checkpoint"),
    "no_config": (saved_again(lambda inside: inside.pop("config")), "best.pt: holds no config of a training"),
    "no_model": (saved_again(lambda inside: inside.pop("model")), "best.pt: holds no"),
    "config_no_mapping": (saved_again(lambda inside: inside.update(config=3)), "best.pt: holds no config of"),
    "no_section": (saved_again(lambda inside: inside["config"].pop("model")), "model: the config has no such section"),
    "other_weights": (
        saved_again(lambda inside: inside["model"].update(extra=torch.zeros(1))), "1 are left over"
    ),
    "untrusted_class": (
        name_in_config("model", _target_="os.system"),
        "model._target_=os.system: a config out of a checkpoint may only name classes of segtrain",
    ),
    "trusted_package_but_no_model": (
        name_in_config("inference", _target_="torch.optim.SGD"),
        "inference._target_=torch.optim.SGD is no segtrain.inference.strategy.Strategy",
    ),
    "weights_inside_a_list_are_not_read": (
        saved_again(lambda inside: inside["config"].update(model=HIDDEN_WEIGHTS)),
        "holds the weights of another model",
    ),
    "resolver": (
        name_in_config("trainer", device="${oc.decode:cpu}"),
        "the stored config's trainer.device is '${oc.decode:cpu}': only one reference such as",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(("damage", "said"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line(
    refused: Callable[..., str], copied_run: Path, pictures: Path, damage: Damage, said: str, command: str
) -> None:
    best = copied_run / "checkpoints" / "best.pt"
    damage(best)
    more = [f"input={pictures / 'images'}", "output=results"] if command == "predict" else []
    message = refused(command, f"checkpoint={best}", *more)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("checkpoint=RUN", "RUN is a folder; name the file, such as RUN/checkpoints/best.pt"),
        ("checkpoint=5", "checkpoint=5 is not a string"),
        ("checkpoint=BEST model.decoder_channels=[8,8,8,8]", "holds the weights of another model (model=unet"),
        ("checkpoint=BEST model/backbone=resnet18", "holds the weights of another model"),
        ("checkpoint=BEST data.classes=[background,disc] data.palette=null", "the data's 2 classes (background, disc)"),
        ("checkpoint=BEST data=voc", "data.root has no value: set data.root=..."),
        ("checkpoint=BEST data.val_split=tset", "data=shapes has the splits train and val, not 'tset'"),
        ("checkpoint=BEST inference.scale=0", "inference.scale=0 is outside (0, 4]"),
        ("checkpoint=BEST inferense.scale=1", "did you mean 'inference.scale' or"),
        ("checkpoint=BEST loss=dicee", "loss=dicee: no such option; did you mean 'dice'?"),
        ("checkpoint=BEST loss.class_weights=enet", "a rule needs the training set, which is not read here"),
        ("checkpoint=BEST augment.evaluate=null", "augment.evaluate=None: name the transforms there"),
        ("checkpoint=BEST output=RUN/config.yaml", "output=RUN/config.yaml: RUN/config.yaml is a file; name a folder"),
        ("checkpoint=BEST trust=mine", "trust='mine' is not a list, each a string"),
    ],
)
def test_a_wrong_evaluation_is_one_line(refused: Callable[..., str], finished_run: Path, words: str, said: str) -> None:
    before = contents(finished_run)
    words = words.replace("BEST", "RUN/checkpoints/best.pt")
    message = refused("evaluate", *words.replace("RUN", str(finished_run)).split())
    assert said.replace("RUN", str(finished_run)) in message
    assert "\n" not in message
    assert contents(finished_run) == before


def test_a_damaged_picture_ends_an_evaluation_without_results(
    refused: Callable[..., str], finished_run: Path, pictures: Path
) -> None:
    best = finished_run / "checkpoints" / "best.pt"
    classes = ",".join(checkpoint.load(best)["facts"]["class_names"])
    halve(pictures / "images" / "d.jpg")
    message = refused(
        *("evaluate", f"checkpoint={best}", "output=results", "data=folder", f"data.root={pictures}"),
        *(f"data.classes=[{classes}]", "data.splits={train: 0.1, val: 0.9}", "data.workers=0"),
    )
    assert message.startswith(f"{pictures}/images/d.jpg: unreadable or truncated")


# Pictures to predict.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("input=nowhere.jpg output=out", "input=nowhere.jpg: no such file or folder, and no file matches it as a glob"),
        ("input='ROOT/*.tif' output=out", "no file matches it as a glob"),
        ("input=ROOT output=out", "input=ROOT: no image (.bmp"),
        ("input=ROOT/images output=out save=[foo]", "save=foo: nothing of that name can be saved"),
        ("input=ROOT/images output=out save=overly", "save='overly' is not a list, each a string"),
        ("input=ROOT/images output=out save=[overly]", "did you mean 'overlay'?"),
        ("input=ROOT/images output=out save=[]", "save=[] saves nothing; choose from index"),
        ("input=ROOT/images output=out save=null", "save=None is not a list"),
        ("input=[] output=out", "input=[] names nothing"),
        ("input=[ROOT/images,nowhere.jpg] output=out", "input=nowhere.jpg: no such file or folder"),
        ("input=1.5 output=out", "input=1.5 is not a string or an int or a list"),
        ("input=-1 output=out", "input=-1: cameras are numbered from 0"),
        ("input=ROOT/images output=out --stdin", "--stdin and input=ROOT/images both say what to predict"),
        ("input=ROOT/images output=out prefetch=0", "prefetch=0: give 1 or more"),
        ("input=ROOT/images output=out writers=0", "writers=0: give 1 or more"),
        ("input=ROOT/images output=out max_frames=0", "max_frames=0: give 1 or more"),
        ("input=ROOT/images output=out figure_classes=0", "figure_classes=0: give 1 or more"),
        ("input=ROOT/images output=out contours=2", "contours=2 is not true or false"),
        ("input=ROOT/images output=out alpha=1.5", "alpha=1.5 is outside [0, 1]"),
        ("input=ROOT/images output=out alpha=much", "alpha='much' is not a number"),
        ("input=ROOT/images output=ROOT/train.txt", "output=ROOT/train.txt: ROOT/train.txt is a file; name a folder"),
        ("input=ROOT/images output=out data.rot=1", "no config key 'data.rot'"),
        ("inptu=ROOT/images output=out", "input has no value: set input=... (is 'inptu' meant to be it?)"),
    ],
)
def test_a_wrong_prediction_is_one_line(
    refused: Callable[..., str], finished_run: Path, pictures: Path, words: str, said: str
) -> None:
    before = contents(pictures)
    best = f"checkpoint={finished_run}/checkpoints/best.pt"
    message = refused("predict", best, *words.replace("ROOT", str(pictures)).split())
    assert said.replace("ROOT", str(pictures)) in message
    assert "\n" not in message
    assert contents(pictures) == before


def test_bad_pictures_among_good_ones_are_listed_and_the_good_ones_done(
    run_cli: RunCli, finished_run: Path, pictures: Path, tmp_path: Path
) -> None:
    halve(pictures / "images" / "b.jpg")
    (pictures / "images" / "d.jpg").write_bytes(b"")
    code, _, err = run_cli(
        *("predict", f"checkpoint={finished_run}/checkpoints/best.pt", f"input={pictures / 'images'}"),
        *(f"output={tmp_path / 'out'}", "save=[index]"),
    )
    assert code == 2
    assert "Traceback" not in err
    lines = err[err.index("segtrain: error:") :].splitlines()
    assert lines[0] == "segtrain: error: 2 of 4 images could not be read:"
    assert lines[1].startswith(f"{pictures}/images/b.jpg: unreadable or truncated")
    assert lines[2].startswith(f"{pictures}/images/d.jpg: damaged, or not an image")
    assert [path.name for path in sorted((tmp_path / "out" / "index").iterdir())] == ["a.png", "c.png"]
