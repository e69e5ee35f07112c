"""A training small enough to run in every test session: seconds on one core."""

from collections.abc import Callable
from pathlib import Path

import pytest

# A U-Net of a few thousand parameters on 64x64 crops; no worker processes, so that a run costs no start-up.
TINY = (
    *("data=shapes", "data.num_train=24", "data.num_val=5", "data.size=[64,64]", "augment.crop_size=[64,64]"),
    *("data.batch_size=4", "data.eval_batch_size=2", "data.workers=0"),
    *("model=unet", "model.batch_norm=true", "model.decoder_channels=[8,8,8,4,4]"),
    *("model.backbone.channels=[4,4,8,8,8]", "model.backbone.batch_norm=true", "model.backbone.dropout=0"),
    *("trainer.max_steps=6", "trainer.evaluate_every=3", "trainer.log_every=1", "trainer.pictures=2"),
)

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train(run_cli: Callable[..., tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train(*overrides) -> run directory` of a finished tiny training; later overrides win."""

    def run(*overrides: str) -> Path:
        directory = tmp_path_factory.mktemp("runs") / "run"
        code, out, err = run_cli("train", *TINY, f"run_dir={directory}", *overrides)
        assert code == 0, out + err
        return directory

    return run


@pytest.fixture(scope="session")
def finished_run(train: Train) -> Path:
    """One such run that tests may read but not change."""
    return train()
