"""docs/models.md says what is so: its switches, its pictures, its numbers of parameters."""

import importlib.util
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/models.md"
PICTURES = ROOT / "docs/images/models"
SWITCH = re.compile(r"^model[\w./]*=\S+$")


@cache
def drawing():
    """The script, and through it the package beside it."""
    spec = importlib.util.spec_from_file_location("draw_models", ROOT / "scripts/draw_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(group):
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("[!_]*.yaml"))


def helper(module):
    drawing()
    return importlib.import_module(f"model_pictures.{module}")


def spans_of(text):
    """Code: what stands between back quotes, and each line of a fence up to its comment."""
    fences = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split(" #")[0] for fence in fences for line in fence.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"```\n.*?```", "", text, flags=re.DOTALL))


def alternatives(switch):
    """`model=a,b` of a multirun as `model=a` and `model=b`; a list in brackets stays whole."""
    key, _, value = switch.partition("=")
    return [f"{key}={part}" for part in re.split(r",(?![^\[]*\])", value)]


def quoted_switches():
    """Every line of overrides on the page; one that names no model belongs to the first that its section names."""
    found = {}
    for section in re.split(r"\n##+ ", PAGE.read_text()):
        switches = [[word for word in span.split() if SWITCH.match(word)] for span in spans_of(section)]
        named = [switch for line in switches for switch in line if switch.startswith("model=")]
        base = named[0] if named else "model=unet_light"
        for line in filter(None, switches):
            whole = line if any(switch.startswith("model=") for switch in line) else [base, *line]
            for overrides in product(*map(alternatives, whole)):
                found[overrides] = None
    return list(found)


@pytest.mark.parametrize("overrides", quoted_switches(), ids=" ".join)
def test_a_quoted_switch_makes_a_model(overrides):
    if "model/backbone=timm" in overrides:
        pytest.importorskip("timm")
    helper("measure").build(*overrides, auxiliary=True)


def test_the_page_quotes_switches_of_every_model():
    assert {f"model={name}" for name in options_of("model")} <= {overrides[0] for overrides in quoted_switches()}


def test_every_backbone_and_every_file_of_backbones_is_named():
    text = PAGE.read_text()
    assert [name for name in options_of("model/backbone") if f"`{name}`" not in text] == []
    files = (ROOT / "segtrain/backbones").glob("[!_]*.py")
    assert [path.name for path in files if path.stem != "base" and f"segtrain/backbones/{path.name}" not in text] == []


def test_every_file_that_is_named_exists():
    named = re.findall(r"`((?:segtrain|configs|scripts|tests)/[\w/.]+)`", PAGE.read_text())
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_page_shows_every_picture_and_none_that_is_missing():
    shown = re.findall(r"\]\(images/models/(\w+)\.svg\)", PAGE.read_text())
    assert sorted(shown) == sorted(path.stem for path in PICTURES.iterdir()) == sorted(drawing().PICTURES)


@pytest.mark.parametrize("name", sorted(path.stem for path in PICTURES.glob("*.svg")))
def test_a_picture_is_what_the_models_give(name):
    assert drawing().PICTURES[name]().svg() == (PICTURES / f"{name}.svg").read_text(encoding="utf-8"), (
        "draw it again: python scripts/draw_models.py docs/images/models"
    )


def families():
    """The first option of each kind of network: what precedes a digit, or the whole name."""
    return sorted({re.split(r"\d", name)[0]: name for name in reversed(helper("table").backbone_names())}.values())


@pytest.mark.parametrize("name", families())
def test_a_row_of_the_table_of_backbones_is_what_it_is(name):
    assert helper("table").backbone_row(name) in PAGE.read_text(), "run python scripts/draw_models.py --table"


@pytest.mark.slow
def test_the_table_of_backbones_is_what_they_are():
    assert helper("table").backbone_table() in PAGE.read_text(), "run python scripts/draw_models.py --table"


def parameter_rows():
    section = PAGE.read_text().split("## Parameters")[1]
    rows = re.findall(r"^\| `([^`]+)`([^|]*)\| ([\d.]+) \|", section, flags=re.MULTILINE)
    assert len(rows) > 5
    return rows


@pytest.mark.parametrize(("switches", "remark", "millions"), parameter_rows(), ids=lambda value: str(value).strip())
def test_a_stated_number_of_parameters_is_counted(switches, remark, millions):
    numbers = {unit: int(number) for number, unit in re.findall(r"(\d+) (class|channel)", remark)}
    model = helper("measure").build(
        *switches.split(), num_classes=numbers.get("class", 21), in_channels=numbers.get("channel", 3)
    )
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}" == millions
