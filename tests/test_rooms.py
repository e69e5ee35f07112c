"""The rooms of docs/architecture.md, kept by reading every import statement in the package."""

import ast
from pathlib import Path

import pytest

from segtrain.commands import COMMANDS

PACKAGE = Path(__file__).resolve().parents[1] / "segtrain"

BOTTOM = {"types", "errors"}
# What each room may import of segtrain, besides itself and BOTTOM.
ALLOWED = {
    "types": set(),
    "errors": set(),
    "nn": set(),
    "weights": set(),
    "backbones": {"nn", "weights"},
    "models": {"backbones", "nn", "weights"},
    "analysis": {"models"},
    "data": set(),
    "losses": set(),
    "optim": set(),
    "metrics": set(),
    "inference": set(),
    "report": set(),
    "distributed": {"inference"},
    "engine": {"distributed", "inference", "metrics", "weights"},
    "export": {"engine", "inference", "metrics"},
    "predict": {"data", "engine", "inference", "report"},
    "construct": set(),
    "config_tree": set(),
    "terminal": set(),
    "explain": {"config_tree"},
    "compose": {"config_tree", "explain", "terminal"},
    "saved_config": {"compose", "config_tree", "explain"},
    "options": {"construct"},
    "transforms": {"construct", "data"},
    "build": {"construct", "options", "transforms", "data", "engine", "inference", "losses", "models", "nn", "optim"},
    "load": {"build", "compose", "options", "saved_config", "data", "engine", "export", "inference", "losses"},
    "commands": {
        *("build", "compose", "config_tree", "explain", "load", "options", "saved_config", "terminal"),
        *("analysis", "data", "distributed", "engine", "export", "inference", "models", "predict", "report"),
    },
    "cli": {"commands", "config_tree", "terminal"},
    "__main__": {"cli"},
    "__init__": set(),
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(tree: ast.Module) -> set[str]:
    """First name below `segtrain` of every import, function-level ones included."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("segtrain.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = (node.module or "").split(".")
            if module == ["segtrain"]:
                rooms |= {alias.name for alias in node.names if not alias.name.startswith("__")}
            elif module[0] == "segtrain":
                rooms.add(module[1])
    return rooms


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_the_rooms_below_them(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"new room {room}: give it a row here and in docs/architecture.md"
    imported = imported_rooms(ast.parse(path.read_text(encoding="utf-8")))
    assert imported <= ALLOWED[room] | BOTTOM | {room, "__version__"}


def test_commands_do_not_import_each_other() -> None:
    """Modules beside them in their room may be shared. Completion, which completes what the others take, reads them."""
    commands = {name.replace("-", "_") for name in COMMANDS}
    for name in commands - {"completion"}:
        tree = ast.parse((PACKAGE / "commands" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {f"segtrain.commands.{other}" for other in commands}, name


def test_the_engine_is_handed_objects_and_never_sees_a_config() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("omegaconf", "hydra") for name in names), path


def test_nothing_ships_that_pyproject_does_not_name() -> None:
    listed = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    for folder in {path.parent for path in SOURCES}:
        dotted = ".".join(folder.relative_to(PACKAGE.parent).parts)
        assert f'"{dotted}",' in listed, f"add {dotted} to [tool.setuptools] packages"
