"""The command line: help, the table of commands, exit codes, `config`, `list` and shell completion."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segtrain import cli
from segtrain.commands import COMMANDS
from segtrain.commands.completion import SCRIPTS, candidates
from segtrain.commands.list import KINDS
from segtrain.config_tree import find_groups, primary_keys, shipped_configs, summary
from segtrain.errors import DataError
from segtrain.terminal import wants_traceback

RunCli = Callable[..., tuple[int, str, str]]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["train", "--help"], ["list", "models"], ["completion", "bash"], ["trian"]]
)
def test_answers_without_torch_and_hydra(argv: list[str]):
    code = (
        "import sys; from segtrain.cli import main\n"
        f"main({argv!r})\n"
        "heavy = sorted({'torch', 'hydra', 'omegaconf', 'albumentations'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(run_cli: RunCli):
    code, out, _ = run_cli("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_a_commands_help_lists_its_keys_and_every_group_with_its_options(run_cli: RunCli):
    code, out, _ = run_cli("train", "--help")
    assert code == 0
    assert re.search(r"^  seed=0 +of initial weights", out, re.MULTILINE)
    assert re.search(r"^  model=    \(default: unet\)$", out, re.MULTILINE)
    for group, options in find_groups().items():
        assert f"\n  {group}=" in out
        assert all(f"\n    {option}" in out for option in options)


def test_the_help_of_a_command_that_takes_no_groups_lists_its_own_keys_alone(run_cli: RunCli):
    out = run_cli("checkpoint", "--help")[1]
    assert re.search(r"^  output=null +strip: file to write", out, re.MULTILINE)
    assert "GROUP=OPTION" not in out
    assert "--multirun" not in out


def test_help_shows_the_users_own_options(run_cli: RunCli, paint_shop: Path):
    assert "\n    blue                 Blue paint\n" in run_cli("train", "--help", "--config-dir", paint_shop)[1]


def test_no_command_is_a_mistake(run_cli: RunCli):
    code, out, err = run_cli()
    assert (code, out) == (2, "")
    assert "usage: segtrain COMMAND" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["--hlep"], "unknown option '--hlep'"),
        (["model=unet"], "no command before 'model=unet'; write for example: segtrain train model=unet"),
        (["list", "model5"], "unknown kind 'model5'; did you mean 'model"),
        (["list", "models", "data"], "list shows one kind at a time, got models data"),
        (["completion", "bsh"], "segtrain completion takes the name of a shell: bash, zsh, fish; did you mean 'bash'?"),
        (["config", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["list", "--config-dir"], "argument --config-dir/-cd: expected one argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_cli: RunCli, argv: list[str], said: str):
    code, out, err = run_cli(*argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"segtrain: error: {said}")
    assert err.count("\n") == 1


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("segtrain.commands.list.run", fail)


def test_an_error_of_the_users_is_one_line(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, DataError("a.png: no mask"))
    assert run_cli("list") == (2, "", "segtrain: error: a.png: no mask\n")


def test_debug_shows_the_traceback_above_that_line(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, DataError("a.png: no mask"))
    code, _, err = run_cli("list", "debug=true")
    assert code == 2
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("segtrain: error: a.png: no mask\n")


def test_any_other_exception_is_our_bug(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, ZeroDivisionError("oops"))
    code, _, err = run_cli("list", "a b")
    assert code == 1
    assert "ZeroDivisionError: oops" in err
    assert err.endswith("the command: segtrain list 'a b'\n")


def test_a_pipe_that_breaks_elsewhere_is_our_bug(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, BrokenPipeError("worker"))
    assert run_cli("list")[0] == 1


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(4), 4), (SystemExit(), 0), (SystemExit("text"), 1)]
)
def test_what_ends_python_becomes_an_exit_code(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
):
    fail_with(monkeypatch, error)
    assert run_cli("list")[0] == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_error(unbuffered: str):
    code = "import sys; from segtrain.cli import main; sys.exit(main(['train', '--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("debug=true", True), ("++debug=True", True), ("debug=false", False), ("my.debug=true", False), ("debug", False)],
)
def test_debug_is_recognised_as_hydra_reads_it(word: str, wanted: bool):
    assert wants_traceback(["list", word]) is wanted


def test_main_reads_this_process_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["segtrain", "--version"])
    assert cli.main() == 0
    assert re.fullmatch(r"segtrain \d+\.\d+\.\d+\n", capsys.readouterr().out)


# config


@pytest.fixture
def shop(paint_shop: Path) -> list[str]:
    return ["--config-dir", str(paint_shop), "--config-name", "shop"]


def test_config_prints_the_choices_and_the_composed_config(run_cli: RunCli, shop: list[str]):
    code, out, err = run_cli("config", *shop, "paint=blue", "seed=5")
    assert (code, err) == (0, "")
    assert out == "# paint=blue shape=round\nseed: 5\ndebug: false\npaint:\n  coats: 3\nshape:\n  size: 5\n"


def test_config_package_prints_one_node(run_cli: RunCli, shop: list[str]):
    assert run_cli("config", *shop, "--package", "shape")[1] == "# @package shape\nsize: 5\n"


def test_config_resolve_fills_in_references(run_cli: RunCli, shop: list[str]):
    assert "  size: 5\n  tin: ???\n" in run_cli("config", *shop, "--resolve")[1]


def test_config_shows_the_tree_of_defaults_each_time_it_is_asked(run_cli: RunCli, shop: list[str]):
    first, second = (run_cli("config", *shop, "--info", "defaults-tree") for _ in range(2))
    assert first == second
    assert "    paint: red:\n      paint/brush: flat\n" in first[1]


def test_config_composes_the_train_config(run_cli: RunCli):
    code, out, err = run_cli("config", "model=unet", "trainer.max_steps=7")
    assert (code, err) == (0, "")
    assert re.search(r"^# .*\bmodel=unet\b", out)
    assert "\n  max_steps: 7\n" in out


def test_an_unknown_key_of_the_train_config_gets_the_nearest_one(run_cli: RunCli):
    code, _, err = run_cli("config", "max_steps=5")
    assert code == 2
    assert "no config key 'max_steps'; did you mean 'trainer.max_steps'?" in err


# list, and the tree it reads


def test_list_counts_every_kind(run_cli: RunCli):
    out = run_cli("list")[1]
    groups = find_groups()
    for name, kind in KINDS.items():
        assert re.search(rf"^{name} +{len(groups.get(kind.group, {}))} +{kind.group}=", out, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_list_of_a_kind_shows_every_option_and_how_to_add_one(run_cli: RunCli, kind: str):
    code, out, _ = run_cli("list", kind)
    group = KINDS[kind].group
    assert code == 0
    assert all(re.search(rf"^{option} ", out, re.MULTILINE) for option in find_groups().get(group, {}))
    assert f"my_configs/{group}/mine.yaml" in out
    assert all(f"    {line}\n" in out for line in KINDS[kind].yaml)


def test_models_and_backbones_are_listed_in_the_order_of_their_papers(run_cli: RunCli):
    models = [line.split()[0] for line in run_cli("list", "models")[1].partition("\n\n")[0].splitlines()]
    order = ["fcn8s", "deeplabv1", "unet", "deeplabv2", "deeplabv3plus", "unet_light"]  # the last is of no one paper
    assert [name for name in models if name in order] == order
    backbones = run_cli("list", "backbones")[1]
    assert backbones.index("\nvgg16 ") < backbones.index("\nresnet18 ") < backbones.index("\nefficientnet_b0 ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_adding_one_composes_as_it_stands(run_cli: RunCli, tmp_path: Path, kind: str):
    group = KINDS[kind].group
    path = tmp_path / group / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(KINDS[kind].yaml))
    code, out, err = run_cli("config", "--config-dir", tmp_path, f"{group}=mine")
    assert (code, err) == (0, "")
    assert f"{group}=mine" in out.splitlines()[0]


def test_list_shows_the_users_own_kinds_without_hidden_files(run_cli: RunCli, paint_shop: Path):
    out = run_cli("list", "paint", "--config-dir", paint_shop)[1]
    assert out.startswith("blue   Blue paint\nred    Red paint (Smith et al. 2001)\n\nAdd your own")


@pytest.mark.parametrize("group", sorted(find_groups()))
def test_every_option_says_what_it_is(group: str):
    silent = [path for path in find_groups()[group].values() if not summary(path)]
    assert not silent


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# A (B et al. 2015, arXiv:1). More.\nx: 1\n", "A (B et al. 2015, arXiv:1)"),
        ("# @package _global_\n# Two\n# lines of it.\n# segtrain train\n", "Two lines of it"),
        ("# At 0.5 px, e.g. A, of Chen et al. The rest. And more.\n", "At 0.5 px, e.g. A, of Chen et al. The rest"),
        ("x: 1  # not a heading\n", ""),
    ],
)
def test_a_summary_is_the_first_sentence_of_the_first_comment(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "option.yaml").write_text(text)
    assert summary(tmp_path / "option.yaml") == sentence


def test_options_are_listed_by_number_not_by_digit():
    names = [name for name in find_groups()["model/backbone"] if re.fullmatch(r"resnet\d+", name)]
    assert names == sorted(names, key=lambda name: int(name.removeprefix("resnet")))


def test_every_key_of_a_primary_config_is_explained():
    for command in COMMANDS.values():
        if command.primary and (shipped_configs() / f"{command.primary}.yaml").is_file():
            assert all(key.comment for key in primary_keys(command.primary)), command.primary


# completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segtrain ", list(COMMANDS)),
        ("segtrain ev", ["evaluate"]),
        ("segtrain list mod", ["models"]),
        ("segtrain completion ", ["bash", "zsh", "fish"]),
        ("segtrain train --conf", ["--config-dir", "--config-name"]),
        ("segtrain train mod", ["model.", "model/", "model="]),
        ("segtrain train model=un", [f"model={name}" for name in find_groups()["model"] if name.startswith("un")]),
        ("segtrain train model/backbone=resnet3", ["model/backbone=resnet34"]),
        ("segtrain train trainer.max_st", ["trainer.max_steps="]),
        ("segtrain train -m model=unet trainer.max_e", ["trainer.max_epochs="]),
        ("segtrain config see", ["seed="]),
        ("segtrain evaluate checkp", ["checkpoint="]),
        ("segtrain evaluate checkpoint=best.pt trainer.max_st", ["trainer.max_steps="]),
        ("segtrain checkpoint ver", ["verify"]),
        ("segtrain checkpoint inspect best.pt form", ["format="]),
        ("segtrain checkpoint inspect ", []),
        ("segtrain lr_range model=unet_l", ["model=unet_light"]),
        ("segtrain lr_range min_", ["min_lr="]),
        ("segtrain replay outp", []),
        ("segtrain replay RUN trainer.prec", ["trainer.precision="]),
        ("segtrain nonsense x", []),
        ("segtrain train --config-dir nowhere mod", []),
    ],
)
def test_completion_offers_what_may_follow(line: str, expected: list[str]):
    assert candidates(line) == expected


def test_completion_knows_the_users_own_configs(paint_shop: Path):
    assert candidates(f"segtrain train --config-dir {paint_shop} +paint=") == ["+paint=blue", "+paint=red"]


def test_completion_query_reads_what_the_shell_function_sets(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch):
    line = "segtrain train opt model=unet"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len("segtrain train opt")))
    assert run_cli("completion", "query") == (0, "optimizer.\noptimizer=\n", "")


def complete_in_bash(tmp_path: Path, words: list[str], settings: str = "") -> list[str]:
    """What bash would put in place of the word under the cursor, by the printed function itself."""
    segtrain = tmp_path / "segtrain"
    segtrain.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m segtrain "$@"\n')
    segtrain.chmod(0o755)
    line = " ".join(words)
    script = (
        f"{settings}\n{SCRIPTS['bash']}\nCOMP_LINE='{line}' COMP_POINT={len(line)}\n_segtrain_completion\n"
        'printf "[%s]\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    return [text[1:-1] for text in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_gets_a_space_after_what_is_complete(tmp_path: Path):
    assert complete_in_bash(tmp_path, ["segtrain", "ev"]) == ["evaluate "]
    assert complete_in_bash(tmp_path, ["segtrain", "train", "optimi"]) == ["optimizer.", "optimizer="]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_gets_only_what_follows_the_equals_sign_where_that_breaks_words(tmp_path: Path):
    words = ["segtrain", "train", "model/backbone=resnet3"]
    assert complete_in_bash(tmp_path, words, "COMP_WORDBREAKS=' ='") == ["resnet34 "]
    assert complete_in_bash(tmp_path, words, "COMP_WORDBREAKS=' '") == ["model/backbone=resnet34 "]
