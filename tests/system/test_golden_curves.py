"""The losses of twenty steps of each family of models are those in the repository, on the versions that made them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from segtrain.engine.run_directory import versions

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden_curves", ROOT / "scripts" / "make_golden_curves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = maker()
QUICK = ("unet", "fcn", "deeplabv3plus", "fcdensenet")
FAMILIES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SCRIPT.RECIPES]
# Of a loss. Another CPU's kernels, or another number of threads, move it by half of this; see the script.
TOLERANCE = 3e-4


def golden(family: str) -> list[float]:
    """Skips where other versions are installed than made the curve."""
    stored = json.loads((GOLDEN / f"{family}.json").read_text(encoding="utf-8"))
    here = versions()
    others = [
        f"{name} {here[name]} (made with {made})" for name, made in stored["versions"].items() if here[name] != made
    ]
    if others:
        pytest.skip(f"other versions: {', '.join(others)}")
    return stored["losses"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_as_it_did(family: str) -> None:
    expected = golden(family)
    assert SCRIPT.difference(SCRIPT.curve(family), expected) < TOLERANCE


@pytest.mark.parametrize("change", ["optimizer.momentum=0.85", "model.backbone.batch_norm=true", "seed=1"])
def test_a_change_of_the_numbers_is_outside(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = golden("unet")
    monkeypatch.setitem(SCRIPT.RECIPES, "unet", (*SCRIPT.RECIPES["unet"], change))
    assert SCRIPT.difference(SCRIPT.curve("unet"), expected) > 2 * TOLERANCE


def test_there_is_a_curve_for_each_family_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(SCRIPT.RECIPES)
