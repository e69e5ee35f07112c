"""The losses of twenty steps of each model family are those in the repository, on the versions that made them."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden_curves", ROOT / "scripts" / "make_golden_curves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = maker()
# Changes are tried on one family here, on all by `scripts/make_golden_curves.py --measure`.
TRIED_ON = "unet"


def golden(family: str) -> Any:
    """The curve in the repository; skips where other versions are installed than made it."""
    contents, curve = SCRIPT.read(family)
    here = SCRIPT.made_with()
    others = [
        f"{name} {here.get(name)} (made with {made})"
        for name, made in contents["made_with"].items()
        if here.get(name) != made
    ]
    if others:
        pytest.skip(f"other versions: {', '.join(others)}")
    return curve


@pytest.mark.parametrize("family", SCRIPT.FAMILIES)
def test_a_family_learns_as_it_did(family: str) -> None:
    expected = golden(family)
    assert SCRIPT.train(family).deviation(expected) < SCRIPT.TOLERANCE, (
        f"if {family} is meant to learn otherwise now: python scripts/make_golden_curves.py --family {family}"
    )


@pytest.mark.parametrize("change", SCRIPT.CHANGES)
def test_a_change_of_what_is_learnt_is_outside(change: str) -> None:
    expected = golden(TRIED_ON)
    assert SCRIPT.train(TRIED_ON, SCRIPT.CHANGES[change]).deviation(expected) > 2 * SCRIPT.TOLERANCE


@pytest.mark.parametrize("family", SCRIPT.FAMILIES)
def test_a_file_says_how_its_curve_was_made(family: str) -> None:
    contents, curve = SCRIPT.read(family)
    assert contents["overrides"] == SCRIPT.overrides_of(family)
    assert len(curve.loss) == 20


def test_there_is_a_curve_for_each_family_and_no_other() -> None:
    assert {path.stem for path in (ROOT / "tests" / "golden").glob("*.json")} == set(SCRIPT.FAMILIES)
