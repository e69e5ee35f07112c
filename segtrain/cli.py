"""The command `segtrain`: picks a command, runs it, and turns what went wrong into a line and an exit code.

0: done. 1: a bug of ours. 2: a mistake in the configuration, the data or a checkpoint. 3: the machine lacks something,
such as room on the disk. 4: the loss is no longer a number. 130: interrupted by Ctrl-C. 141: nobody reads standard
output. 143: told to end by SIGTERM or SIGUSR1.
Neither torch nor Hydra is imported before a command is run.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from segtrain import __version__
from segtrain.commands import COMMANDS, Command
from segtrain.config_tree import default_options, find_groups, primary_keys, shipped_configs, summary
from segtrain.errors import ConfigError, nearest
from segtrain.terminal import report_failure, split_config_dir

FLAGS = """\
  -m, --multirun           run one job per combination of KEY=VALUE1,VALUE2
  --config-dir DIR         add your own configs: DIR/model/my_model.yaml is model=my_model
  --config-name NAME       start from another primary config
  --cfg job|hydra|all      print the configuration instead of running; with --package KEY, --resolve
  --info [WHAT]            print how it is composed: all, config, defaults, defaults-tree, plugins, searchpath"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default this process's, and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(argv)
        sys.stdout.flush()  # here, where a closed pipe can still be handled
        return code
    except BaseException as error:
        return report_failure(error, argv)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        print(program_help(), file=sys.stderr)
        return 2
    name, rest = argv[0], list(argv[1:])
    if name in ("-h", "--help", "help"):
        print(program_help())
        return 0
    if name == "--version":
        print(f"segtrain {__version__}")
        return 0
    if name not in COMMANDS:
        raise ConfigError(_unknown_command(name))
    if "-h" in rest or "--help" in rest:
        print(command_help(name, COMMANDS[name], rest))
        return 0
    return int(import_module(f"segtrain.commands.{name.replace('-', '_')}").run(rest))


def _unknown_command(word: str) -> str:
    if "=" in word:
        return f"no command before {word!r}; write for example: segtrain train {word}"
    what = "option" if word.startswith("-") else "command"
    return f"unknown {what} {word!r}{nearest(word, COMMANDS)} (segtrain --help lists them)"


def program_help() -> str:
    """What `segtrain --help` prints."""
    table = "\n".join(f"  {name:<12} {command.summary}" for name, command in COMMANDS.items())
    return (
        "segtrain: train, evaluate and compare semantic segmentation models from configuration.\n\n"
        f"usage: segtrain COMMAND [ARGUMENTS]\n\ncommands:\n{table}\n\n"
        "segtrain COMMAND --help says what a command takes. debug=true shows the traceback of an error."
    )


def command_help(name: str, command: Command, argv: Sequence[str]) -> str:
    """What `segtrain NAME --help` prints; `--config-dir` among `argv` adds the user's own options."""
    parts = [f"segtrain {name}: {command.summary}", f"usage: segtrain {name} {command.usage}"]
    parts.append("examples:\n" + "\n".join(f"  {example}" for example in command.examples))
    if command.primary is not None and not command.takes_groups:
        parts += _keys_help(command.primary)
    elif command.primary is not None:
        parts += [f"options:\n{FLAGS}", *_keys_help(command.primary), _groups_help([*argv])]
    return "\n\n".join(parts)


def _keys_help(primary: str) -> list[str]:
    if not (shipped_configs() / f"{primary}.yaml").is_file():
        return []
    keys = [(f"{key.name}={'' if key.value == '???' else key.value}", key.comment) for key in primary_keys(primary)]
    return ["keys:\n" + "\n".join(f"  {key:<24} {comment}".rstrip() for key, comment in keys)]


def _groups_help(argv: Sequence[str]) -> str:
    config_dir, _ = split_config_dir(argv)
    chosen = default_options("train")
    lines = ["groups (GROUP=OPTION; every key of an option can be set: GROUP.KEY=VALUE):"]
    for group, options in find_groups(config_dir).items():
        default = chosen.get(group, "null")
        lines.append(f"\n  {group}=" + ("" if default == "null" else f"    (default: {default})"))
        lines += [f"    {option:<20} {summary(path)}".rstrip() for option, path in options.items()]
    return "\n".join(lines)
