"""Fixtures shared by all tests."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports albumentations, which otherwise asks the network for its newest version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

from segtrain.cli import main

RunCli = Callable[..., tuple[int, str, str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder with pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(project_root: Path) -> Path:
    """Data sets that lie beside a checkout, in ../shared/data; without them the test is skipped."""
    path = project_root.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no data sets in ../shared/data beside the checkout")
    return path


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`run_cli(*argv, cwd=None) -> (exit code, stdout, stderr)`: one command line, in this process."""

    def run(*argv: object, cwd: Path | None = None) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        folder = contextlib.chdir(cwd) if cwd is not None else contextlib.nullcontext()
        with folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in argv])
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def paint_shop(tmp_path: Path) -> Path:
    """A small config tree of a user's own, with the primary config `shop`; knows nothing of segmentation."""
    files = {
        "shop.yaml": (
            "defaults: [_self_, _hydra, {paint: red}, {shape: round}, {recipe: null}]\n"
            "seed: 0    # of the shop\n"
            "debug: false\n"
        ),
        "paint/red.yaml": (
            "# Red paint (Smith et al. 2001). It dries slowly.\n"
            "defaults: [{brush: flat}, _self_]\ncoats: 2\nsize: ${shape.size}\ntin: ???\n"
        ),
        "paint/blue.yaml": "# Blue paint.\n# segtrain train paint=blue\ncoats: 3\n",
        "paint/_base.yaml": "coats: 1\n",
        "paint/brush/flat.yaml": "width: 1\n",
        "paint/brush/round.yaml": "width: 9\n",
        "shape/round.yaml": "size: 5\n",
        "shape/square.yaml": "size: 6\nlost: ${shpe.size}\n",
        "recipe/bluish.yaml": "# @package _global_\ndefaults: [{override /paint: blue}]\nseed: 3\n",
    }
    for name, text in files.items():
        path = tmp_path / "paint_shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "paint_shop"
