"""Runs a command's work on the config that Hydra composes from segtrain's YAML tree and the command line.

All of Hydra's command line works: overrides, `--cfg`, `--info`, `--multirun`, `--config-dir`, `--config-name`. Hydra's
parts are called here one by one instead of through `hydra.main`, which prints errors itself, exits with 1, reads
`sys.argv`, and lets one failing job end all the others.

`evaluate`, `predict` and `train resume=...` work on a stored config instead. It is data and never goes through Hydra;
only their own few keys do. Every other override travels through Hydra as a pair of values, so that its grammar, its
types and its sweeps hold for them too, and is applied to the stored config by `segtrain.saved_config`:

    inference=slide    ->    +overrides.0.key='inference' +overrides.0.value=slide
"""

import contextlib
import io
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from segtrain.config_tree import find_groups
from segtrain.errors import ConfigError
from segtrain.explain import CONFIG_ERRORS, Surroundings, explain, explain_unknown_key
from segtrain.terminal import ArgumentParser, add_config_dir, existing_folder, report_failure

HYDRA_VERSION_BASE = "1.3"
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Job:
    """One config to work on, and where it comes from.

    Attributes:
        config: unresolved, without Hydra's own node.
        choices: config group -> the option chosen.
        overrides: the user's own words, in their order.
        saved_overrides: (key with its prefix `+`, `++`, `~` or none; value) of those meant for a stored config.
        own_keys: the keys that are the command's own, where overrides are meant for a stored config.
        config_dir: the user's own configs.
        number: which of several jobs it is, from 1; None where there is only this one.
    """

    config: DictConfig
    choices: dict[str, str]
    overrides: tuple[str, ...]
    saved_overrides: tuple[tuple[str, Any], ...] = ()
    own_keys: tuple[str, ...] = ()
    config_dir: Path | None = None
    number: int | None = None


def run_command(
    config_name: str,
    argv: Sequence[str],
    task: Callable[[Job], Any],
    *,
    own_keys: Collection[str] | None = None,
) -> int:
    """Compose `config_name` with the command line's overrides and call `task` with it; return the exit code.

    With `--multirun` `task` is called once per job. A job that fails is reported and the others still run; the exit
    code is that of the first failure. A single job's failure is raised. KeyboardInterrupt ends everything.

    Args:
        config_name: a primary config, `configs/<config_name>.yaml`.
        argv: the command line after the command's name.
        task: does the work; what it returns is not used.
        own_keys: for commands that work on a stored config: the top-level keys that go through Hydra. All other
            overrides end up in `Job.saved_overrides`. None: all go through Hydra.

    Raises:
        SegtrainError: what `task` raised, or a mistake in the command line or the configs, explained in one line.
    """
    args = parse_arguments(argv)
    config_name = args.config_name or config_name
    config_dir = existing_folder(args.config_dir)
    groups = find_groups(config_dir)
    _make_working_directory_importable()
    overrides = list(args.overrides)

    def composed() -> DictConfig:
        return _compose_valid_choices(config_loader(config_dir), config_name, args.overrides, groups)

    around = Surroundings(composed, groups, args.overrides)
    jobs = _Jobs(task, argv, around, tuple(own_keys or ()), config_dir)
    with _hydra(config_dir) as hydra:
        try:
            if own_keys is not None:
                overrides = rewrite_for_saved_config(overrides, own_keys, args.multirun, hydra.config_loader)
            if args.info is not None:
                _show_info(hydra, args.info, config_name, overrides)
            elif args.cfg is not None:
                _show_config(hydra, args, config_name, overrides, around)
            else:
                jobs.run_all(hydra, config_name, overrides, args.multirun)
        except (*CONFIG_ERRORS, ValueError, OSError) as error:
            raise explain(error, around) from error
    return jobs.finish()


def parse_arguments(argv: Sequence[str]) -> Namespace:
    """Hydra's options and the overrides, in any order. Raises ConfigError."""
    parser = ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    parser.add_argument("--config-name", "-cn")
    add_config_dir(parser)
    args = parser.parse_intermixed_args(list(argv))
    if (args.package or args.resolve) and args.cfg is None:
        parser.error("--package and --resolve belong to --cfg")
    return args


def config_loader(config_dir: Path | None = None) -> ConfigLoader:
    """Reads and composes segtrain's configs and those in `config_dir`, without Hydra's global state."""
    return ConfigLoaderImpl(_search_path(config_dir))


def complete_override(config_name: str, earlier: Sequence[str], word: str, config_dir: Path | None) -> list[str]:
    """What `word` may become after the overrides `earlier`, by Hydra's completion; none where those are wrong."""
    line = " ".join([*earlier, word])
    with contextlib.suppress(*CONFIG_ERRORS, ValueError, OSError):
        return BashCompletion(config_loader(config_dir))._query(config_name, line)
    return []


def chosen_options(choices: Mapping[str, str | None]) -> dict[str, str]:
    """Hydra's `runtime.choices`, config group -> option, without groups left empty and Hydra's own."""
    return {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}


def rewrite_for_saved_config(
    overrides: Sequence[str], own_keys: Collection[str], multirun: bool, loader: ConfigLoader
) -> list[str]:
    """The overrides with each that is not among `own_keys` turned into the pair described at the top.

    Raises:
        HydraException: wrong syntax, or several values without `multirun`.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, mode, from_shell=True)
    rewritten: list[str] = []
    for number, override in enumerate(parsed):
        text = override.input_line or ""
        if override.is_hydra_override() or re.split(r"[./@]", override.key_or_group)[0] in own_keys:
            rewritten.append(text)
        else:
            rewritten.append(f"+overrides.{number}.key='{override.get_key_element()}'")
            rewritten.append(f"+overrides.{number}.value={_value_text(override, text)}")
    return rewritten


def _value_text(override: Override, text: str) -> str:
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return ",".join(override.sweep_string_iterator())  # a glob looks at the group its key names: do that now
    return text.partition("=")[2] if "=" in text else "null"


def _take_saved_overrides(config: DictConfig) -> tuple[tuple[str, Any], ...]:
    """Undo `rewrite_for_saved_config`: take the pairs out of the composed config, in the user's order."""
    with open_dict(config):
        pairs = OmegaConf.to_container(config.pop("overrides", DictConfig({})), resolve=False)
    assert isinstance(pairs, dict)
    in_order = sorted(pairs.items(), key=lambda item: int(str(item[0])))
    return tuple((pair["key"], pair["value"]) for _, pair in in_order)


class _Jobs:
    """The function that Hydra calls once per job. It keeps failures from Hydra, which would print and regroup them."""

    def __init__(
        self,
        task: Callable[[Job], Any],
        argv: Sequence[str],
        around: Surroundings,
        own_keys: tuple[str, ...],
        config_dir: Path | None,
    ) -> None:
        self.task, self.argv, self.around = task, argv, around
        self.own_keys, self.config_dir = own_keys, config_dir
        self.multirun = False
        self.num_jobs = 0
        self.failures: list[BaseException] = []
        self.exit_codes: list[int] = []

    def run_all(self, hydra: Hydra, config_name: str, overrides: list[str], multirun: bool) -> None:
        """Compose and run every job. Raises what composing raises; failures of the task are kept for `finish`."""
        # A config may ask for a sweep by hydra.mode, as `-m` does.
        mode = RunMode.MULTIRUN if multirun else hydra.get_mode(config_name, overrides) or RunMode.RUN
        self.multirun = mode == RunMode.MULTIRUN
        start = hydra.multirun if self.multirun else hydra.run
        start(
            config_name=config_name,
            task_function=self,
            overrides=[*overrides, f"hydra.mode={mode.name}"],
            with_log_configuration=False,
        )

    def __call__(self, config: DictConfig) -> Any:
        self.num_jobs += 1
        job = self._job(config)
        name = f"job {self.num_jobs} ({' '.join(job.overrides) or 'no overrides'})" if self.multirun else ""
        if name:
            print(f"segtrain: {name}", file=sys.stderr)
        try:
            return self.task(job)
        except (Exception, SystemExit) as error:
            failure: BaseException = error
            if isinstance(error, CONFIG_ERRORS):
                failure = explain(error, Surroundings(lambda: config, self.around.groups, job.overrides))
                failure.__cause__ = error
            self.failures.append(failure)
            if self.multirun:
                self.exit_codes.append(report_failure(failure, self.argv, name))
        return None

    def _job(self, config: DictConfig) -> Job:
        hydra = HydraConfig.get()
        saved = _take_saved_overrides(config) if self.own_keys else ()
        given = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # a word may hold an interpolation
        assert isinstance(given, list)
        words = [word for word in given if not (saved and word.startswith("+overrides."))]
        words += [key if key.startswith("~") else f"{key}={value}" for key, value in saved]
        choices = chosen_options(hydra.runtime.choices)
        number = self.num_jobs if self.multirun else None
        return Job(config, choices, tuple(words), saved, self.own_keys, self.config_dir, number)

    def finish(self) -> int:
        """Raise a single job's failure; say how many of several failed, and return the exit code."""
        if not self.multirun:
            if self.failures:
                raise self.failures[0]
            return 0
        if self.failures:
            print(f"segtrain: {len(self.failures)} of {self.num_jobs} jobs failed", file=sys.stderr)
        return next((code for code in self.exit_codes if code), 0)


def _search_path(config_dir: Path | None) -> ConfigSearchPath:
    path = create_config_search_path("pkg://segtrain.configs")
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
    return path


@contextlib.contextmanager
def _hydra(config_dir: Path | None) -> Iterator[Hydra]:
    """Hydra, whose global state is left clean so that commands can follow each other in one process."""
    version.setbase(HYDRA_VERSION_BASE)
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="segtrain", config_search_path=_search_path(config_dir))
    finally:
        GlobalHydra.instance().clear()


def _show_info(hydra: Hydra, info: str, config_name: str, overrides: list[str]) -> None:
    """`--info`: Hydra prints through the root logger, to which it adds a handler; it is taken off again."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        hydra.show_info(info, config_name=config_name, overrides=overrides)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _show_config(hydra: Hydra, args: Namespace, config_name: str, overrides: list[str], around: Surroundings) -> None:
    """`--cfg`: Hydra prints the config, or exits with a message where `--package` names nothing."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            hydra.show_cfg(config_name, overrides, args.cfg, args.package, args.resolve)
    except SystemExit as error:
        raise ConfigError(f"--package {args.package}: {explain_unknown_key(args.package, around)}") from error


def _compose_valid_choices(
    loader: ConfigLoader, config_name: str, overrides: Sequence[str], groups: dict[str, dict[str, Path]]
) -> DictConfig:
    """The config as nearly as it can be composed from overrides of which some are wrong: only valid choices count."""
    pairs = [(word, *word.partition("=")[::2]) for word in overrides]
    choices = [word for word, key, value in pairs if value in groups.get(key.lstrip("+"), ())]
    config = DictConfig({})
    for attempt in (choices, []):
        with contextlib.suppress(*CONFIG_ERRORS, ValueError):
            config = loader.load_configuration(config_name, attempt, RunMode.RUN)
            break
    with open_dict(config):
        config.pop("hydra", None)
    return config


def _make_working_directory_importable() -> None:
    """So that a config may name the user's own classes; last, so that a file there hides no installed package."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
