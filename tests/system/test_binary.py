"""Binary tasks as whole commands: `data.task=binary` sets head, loss, threshold and metric together."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.engine import checkpoint
from tests.system.conftest import TINY

RunCli = Callable[..., tuple[int, str, str]]
Train = Callable[..., Path]

BINARY = ("data.task=binary", "data.classes=[background,disc]", "data.palette=null")


@pytest.fixture(scope="module")
def binary_run(train: Train) -> Path:
    return train(*BINARY, "data.threshold=0.4", "optimizer.lr=0.01")


@pytest.fixture
def copied(tmp_path: Path, binary_run: Path) -> Callable[..., Path]:
    """`copied(change)`: the run's last checkpoint, its contents changed, as a file of its own."""

    def copy(change: Callable[[dict], object]) -> Path:
        inside = checkpoint.load(binary_run / "checkpoints" / "last.pt")
        del inside["schema"]
        change(inside)
        checkpoint.save(inside, tmp_path / "copy.pt")
        return tmp_path / "copy.pt"

    return copy


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_the_head_has_one_channel_and_the_facts_say_the_threshold(binary_run: Path) -> None:
    saved = checkpoint.load(binary_run / "checkpoints" / "last.pt")
    assert saved["model"]["head.weight"].shape[0] == 1
    assert saved["facts"]["threshold"] == 0.4


def test_the_best_is_the_best_of_the_foreground(binary_run: Path) -> None:
    lines = [json.loads(line) for line in (binary_run / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line["iou/disc"] for line in lines if line["kind"] == "val"}
    best = checkpoint.load(binary_run / "checkpoints" / "best.pt")["state"]
    assert (best["best_value"], best["step"]) == (max(by_step.values()), max(by_step, key=by_step.__getitem__))
    assert "IoU of disc" in (binary_run / "train.log").read_text()


def test_results_name_what_is_expected_of_a_binary_task(binary_run: Path) -> None:
    found = results(binary_run)
    (_, false_alarms), (misses, hits) = found["confusion"]
    assert found["foreground"] == {
        "name": "disc",
        "threshold": 0.4,
        "iou": pytest.approx(hits / (hits + misses + false_alarms)),
        "dice": pytest.approx(2 * hits / (2 * hits + misses + false_alarms)),
        "precision": pytest.approx(hits / (hits + false_alarms)),
        "recall": pytest.approx(hits / (hits + misses)),
    }


def test_evaluate_gives_the_numbers_of_the_training(binary_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    code, out, err = run_cli("evaluate", f"checkpoint={binary_run}/checkpoints/last.pt", f"output={tmp_path}")
    assert code == 0, err
    during, after = results(binary_run), results(tmp_path)
    for key in ("confusion", "miou", "loss", "foreground", "step"):
        assert after[key] == during[key], key
    assert "foreground disc at threshold 0.4: iou" in out


def test_a_lower_threshold_finds_more_and_leaves_the_loss_alone(
    binary_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    found = {}
    for threshold in (0.05, 0.95):
        code, _, err = run_cli(
            *("evaluate", f"checkpoint={binary_run}/checkpoints/last.pt"),
            *(f"output={tmp_path}", f"data.threshold={threshold}"),
        )
        assert code == 0, err
        found[threshold] = results(tmp_path)
    assert found[0.05]["foreground"]["threshold"] == 0.05
    assert found[0.05]["loss"] == found[0.95]["loss"]
    predicted = {threshold: np.sum(one["confusion"], axis=0)[1] for threshold, one in found.items()}
    assert predicted[0.05] > predicted[0.95]


def test_predict_decides_by_the_threshold_and_saves_what_it_says(
    binary_run: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photos" / "a.png")
    base = ("predict", f"checkpoint={binary_run}/checkpoints/last.pt", f"input={tmp_path / 'photos'}")
    out = tmp_path / "out"
    code, _, err = run_cli(*base, f"output={out}", "save=[probabilities]")
    assert code == 0, err
    archive = np.load(out / "probabilities" / "a.npz")
    foreground = archive["probabilities"][1].astype(np.float64)
    assert list(archive["class_names"]) == ["background", "disc"]
    assert archive["probabilities"].shape == (2, 40, 50)
    assert archive["probabilities"].sum(axis=0) == pytest.approx(np.ones((40, 50)), abs=0.002)

    threshold = round(float(np.quantile(foreground, 0.3)), 4)
    save = "save=[index,palette,overlay,confidence]"
    code, _, err = run_cli(*base, f"output={out}", save, f"data.threshold={threshold}")
    assert code == 0, err
    index, confidence = (np.array(Image.open(out / kind / "a.png")) for kind in ("index", "confidence"))
    certain = np.abs(foreground - threshold) > 0.001  # float16 has eleven bits
    assert np.array_equal(index[certain], (foreground >= threshold)[certain])
    assert set(np.unique(index)) == {0, 1}
    assert np.array_equal(np.array(Image.open(out / "palette" / "a.png")), index)
    assert confidence / 255 == pytest.approx(np.where(index == 1, foreground, 1 - foreground), abs=0.01)


def test_a_binary_run_goes_on_where_it_stopped(train: Train, run_cli: RunCli) -> None:
    run = train(*BINARY, "trainer.max_steps=3")
    code, _, err = run_cli("train", f"resume={run}", "trainer.max_steps=4")
    assert code == 0, err
    assert checkpoint.load(run / "checkpoints" / "last.pt")["state"]["step"] == 4


def test_auxiliary_heads_of_one_channel_train_with_any_loss(train: Train) -> None:
    run = train(
        *(*BINARY, "model/aux=decoder", "~model.aux.decoder8", "loss=cross_entropy_dice"),
        *("trainer.max_steps=1", "trainer.evaluate_every=null"),
    )
    saved = checkpoint.load(run / "checkpoints" / "last.pt")["model"]
    heads = {name: weight.shape[0] for name, weight in saved.items() if name.endswith("classifier.weight")}
    assert heads == {"auxiliary.decoder2.classifier.weight": 1, "auxiliary.decoder4.classifier.weight": 1}
    assert "loss/aux_decoder2" in (run / "metrics.jsonl").read_text()


def test_a_model_of_the_users_own_needs_to_know_nothing_of_it(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_binary_model.py").write_text(
        "from torch import nn\nfrom segtrain.types import ModelOutput\n\n\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, num_classes: int, in_channels: int) -> None:\n"
        "        super().__init__()\n        self.layer = nn.Conv2d(in_channels, num_classes, 1)\n\n"
        "    def forward(self, images):\n        return ModelOutput(self.layer(images), {})\n"
    )
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "own.yaml").write_text("# Mine.\n_target_: own_binary_model.Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in TINY if not word.startswith("model")]
    run = tmp_path / "run"
    code, _, err = run_cli(
        *("train", "--config-dir", tmp_path / "configs", *words, "model=own", *BINARY, f"run_dir={run}")
    )
    assert code == 0, err
    assert checkpoint.load(run / "checkpoints" / "last.pt")["model"]["layer.weight"].shape[0] == 1
    during = results(run)
    code, _, err = run_cli("evaluate", f"checkpoint={run}/checkpoints/last.pt", "trust=[own_binary_model]")
    assert code == 0, err
    assert results(run)["confusion"] == during["confusion"]


def test_membranes_of_isbi_2012_are_a_binary_task_of_one_channel(
    shared_data: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    root, run = shared_data / "isbi2012", tmp_path / "run"
    code, _, err = run_cli(
        *("train", *(word for word in TINY if not word.startswith("data")), "data=folder", f"data.root={root}"),
        *("data.masks=labels", "data.in_channels=1", "data.mean=[0.5]", "data.std=[0.17]", "augment=light"),
        *("data.task=binary", "data.classes=[cell,membrane]", "data.mask_format=binary"),
        *("data.labels={cell: [1], membrane: [0]}", "data.workers=0", "augment.crop_size=[64,64]"),
        *(
            "data.batch_size=4",
            "data.splits={train: 0.8, val: 0.1}",
            "trainer.pictures=0",
            "trainer.evaluate_every=null",
        ),
        *("data.eval_batch_size=1", "optimizer.lr=0.01", "trainer.max_steps=12", f"run_dir={run}"),
    )
    assert code == 0, err
    saved = checkpoint.load(run / "checkpoints" / "best.pt")
    assert saved["facts"]["class_names"] == ("cell", "membrane")
    assert (saved["model"]["head.weight"].shape[0], saved["facts"]["in_channels"]) == (1, 1)
    found = results(run)
    assert found["foreground"]["name"] == "membrane"
    assert found["images"] == 3
    total = sum(map(sum, found["confusion"]))
    assert total == 3 * 512 * 512  # nothing is ignored
    assert 0.15 < found["per_class"]["membrane"]["pixels"] / total < 0.30  # black is the minority
    everything = found["per_class"]["membrane"]["pixels"] / total  # the IoU of calling every pixel membrane
    assert found["foreground"]["iou"] > everything + 0.02
    assert "foreground membrane at threshold 0.5" in err


# What was written before there were binary tasks.


def test_a_checkpoint_older_than_binary_tasks_is_read(finished_run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    inside = checkpoint.load(finished_run / "checkpoints" / "last.pt")
    del inside["schema"], inside["facts"]["threshold"]
    del inside["config"]["data"]["task"], inside["config"]["data"]["threshold"]
    inside["config"]["trainer"]["monitor"] = "miou"
    checkpoint.save(inside, tmp_path / "old.pt")
    code, _, err = run_cli("evaluate", f"checkpoint={tmp_path / 'old.pt'}", f"output={tmp_path}")
    assert code == 0, err
    assert results(tmp_path)["confusion"] == results(finished_run)["confusion"]


def test_a_run_older_than_binary_tasks_goes_on(train: Train, run_cli: RunCli) -> None:
    run = train("trainer.max_steps=3")
    config = [line for line in (run / "config.yaml").read_text().splitlines() if "task:" not in line]
    config = [line.replace("monitor: null", "monitor: miou") for line in config if "threshold:" not in line]
    (run / "config.yaml").write_text("\n".join(config))
    code, _, err = run_cli("train", f"resume={run}", "trainer.max_steps=4")
    assert code == 0, err


# Mistakes.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data.task=binary",),
            "data.task=binary has two classes, background and foreground, but the data has 7 (background, disc, "
            "square, triangle, ...); name two in data.classes",
        ),
        (("data.task=binary", "data.classes=[background,disc,ring]", "data.palette=null"), "but the data has 3"),
        (("data.task=binry",), "data.task='binry' is not one of 'multiclass', 'binary'"),
        ((*BINARY, "data.threshold=1"), "data.threshold=1 is no probability in (0, 1); 0.5 is customary"),
        ((*BINARY, "data.threshold=0.0"), "data.threshold=0.0 is no probability in (0, 1)"),
        ((*BINARY, "data.threshold=half"), "data.threshold='half' is not a number"),
        ((*BINARY, "trainer.monitor=iou/ring"), "trainer.monitor=iou/ring: no such metric; did you mean 'iou/disc'?"),
        ((*BINARY, "loss.class_weights=[1]"), "loss.class_weights: 1 weights for 2 classes"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    run_cli: RunCli, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = run_cli("train", *TINY, *words, f"run_dir={tmp_path / 'run'}")
    assert code == 2, err
    assert said in err
    assert err.startswith("segtrain: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("binary", "word", "said"),
    [
        (True, "data.threshold=1.5", "data.threshold=1.5 is no probability in (0, 1)"),
        (True, "data.threshold=null", "data.threshold=None is no probability in (0, 1)"),
        (True, "data.task=multiclass", "data.task=multiclass: the checkpoint's model was trained for binary"),
        (False, "data.task=binary", "data.task=binary: the checkpoint's model was trained for multiclass"),
        (False, "data.threshold=0.3", "data.threshold=0.3: only data.task=binary has one; leave it out"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_what_a_checkpoint_cannot_be_asked_for_is_one_line(
    binary_run: Path,
    finished_run: Path,
    run_cli: RunCli,
    tmp_path: Path,
    command: str,
    binary: bool,
    word: str,
    said: str,
) -> None:
    run = binary_run if binary else finished_run
    photo = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(photo)
    more = [f"input={photo}"] if command == "predict" else []
    code, _, err = run_cli(
        *(command, f"checkpoint={run}/checkpoints/last.pt", f"output={tmp_path / 'out'}", *more, word)
    )
    assert code == 2
    assert said in err
    assert err.startswith("segtrain: error: ")
    assert err.count("\n") == 1


def test_a_threshold_in_a_checkpoint_is_checked_like_any_other(copied: Callable[..., Path], run_cli: RunCli) -> None:
    spoilt = copied(lambda inside: inside["facts"].update(threshold=3.0))
    code, _, err = run_cli("evaluate", f"checkpoint={spoilt}")
    assert code == 2
    assert "data.threshold=3.0 is no probability in (0, 1)" in err
