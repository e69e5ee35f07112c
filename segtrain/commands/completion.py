"""`segtrain completion SHELL` prints what makes a shell complete commands, config groups, options and keys.

The shells' functions ask `segtrain completion query` with the line so far in COMP_LINE and the cursor in COMP_POINT,
and get one candidate per line. Inside a command's overrides Hydra's own completion answers.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from segtrain.commands import COMMANDS
from segtrain.commands.list import KINDS
from segtrain.config_tree import find_groups, primary_keys, shipped_configs
from segtrain.errors import ConfigError, SegtrainError, nearest
from segtrain.terminal import split_config_dir

# `=` breaks words for readline, so bash wants only what follows it; elsewhere a candidate is the whole word.
BASH = r"""_segtrain_completion() {
    local IFS=$'\n' candidate before="${COMP_LINE:0:COMP_POINT}"
    local word="${before##*[[:space:]]}" kept=""
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && kept="${word%=*}="
    COMPREPLY=()
    for candidate in $(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" segtrain completion query 2>/dev/null); do
        [[ $candidate == *[=./] ]] || candidate+=" "
        COMPREPLY+=("${candidate#"$kept"}")
    done
}
complete -o nospace -o default -F _segtrain_completion segtrain"""

ZSH = r"""_segtrain_completion() {
    local -a ready unfinished
    local candidate line="${(j: :)words[1,CURRENT]}"
    for candidate in "${(@f)$(COMP_LINE="$line" COMP_POINT=${#line} segtrain completion query 2>/dev/null)}"; do
        case $candidate in
            "") ;;
            *[=./]) unfinished+=("$candidate") ;;
            *) ready+=("$candidate") ;;
        esac
    done
    (( $#ready + $#unfinished )) || { _files; return }
    compadd -S "" -- $unfinished
    compadd -- $ready
}
compdef _segtrain_completion segtrain"""

FISH = r"""function _segtrain_completion
    set -lx COMP_LINE (commandline -cp | string collect)
    set -lx COMP_POINT (string length -- "$COMP_LINE")
    segtrain completion query 2>/dev/null
end
complete -c segtrain -a '(_segtrain_completion)'"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(argv: list[str]) -> int:
    """Print the script of a shell, or the candidates of a query. Raises ConfigError for an unknown shell."""
    if argv == ["query"]:
        line = os.environ.get("COMP_LINE", "")
        print("\n".join(candidates(line[: int(os.environ.get("COMP_POINT") or len(line))])))
        return 0
    if len(argv) != 1 or argv[0] not in SCRIPTS:
        hint = nearest(argv[0], SCRIPTS) if argv else ""
        raise ConfigError(f"segtrain completion takes the name of a shell: {', '.join(SCRIPTS)}{hint}")
    print(SCRIPTS[argv[0]])
    return 0


def candidates(line: str) -> list[str]:
    """What the last word of `line` may become; the first word is the executable."""
    words = line.split()[1:]
    word = "" if not words or line[-1:].isspace() else words.pop()
    if not words:
        return _beginning_with(word, COMMANDS)
    command, *earlier = words
    if command == "list":
        return _beginning_with(word, KINDS) if not earlier else []
    if command == "completion":
        return _beginning_with(word, SCRIPTS) if not earlier else []
    if command not in COMMANDS:
        return []
    if COMMANDS[command].words and not earlier:
        return _beginning_with(word, COMMANDS[command].words)
    if COMMANDS[command].takes_file and not earlier:
        return []
    if not COMMANDS[command].takes_groups:
        own = primary_keys(COMMANDS[command].primary or command)
        return _beginning_with(word, [f"{key.name}=" for key in own]) if word else []  # none: the shell offers files
    if word.startswith("-"):
        return _beginning_with(word, ("--multirun", "--config-dir", "--config-name", "--cfg", "--info", "--help"))
    return _overrides(COMMANDS[command].primary or "train", earlier, word)


def _beginning_with(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _overrides(primary: str, earlier: list[str], word: str) -> list[str]:
    """Hydra's candidates for `word`: those of the train config, and the command's own keys.

    `evaluate` and `predict` take the train config's groups and keys as overrides of the stored config.
    """
    from segtrain.compose import complete_override  # Hydra: only here, so that the scripts print at once

    try:
        config_dir, rest = split_config_dir(earlier)
    except SegtrainError:
        return []  # an unfinished line has mistakes; the shell then offers file names
    own = {key.name for key in primary_keys(primary)} if (shipped_configs() / f"{primary}.yaml").is_file() else set()
    choices = [text for text in rest if "=" in text and (primary == "train" or text.partition("=")[0] not in own)]
    found = complete_override("train", choices, word, config_dir)
    if primary != "train":
        found = [text for text in found if re.split(r"[.=/]", text)[0] not in own]
        found += _beginning_with(word, [f"{key}=" for key in sorted(own)])
    # Hydra offers a group with groups inside it as the bare name: model=... and model/backbone=... both go on from it.
    groups = [text for text in found if text in find_groups(config_dir)]
    found = [text for text in found if text not in groups] + [text + end for text in groups for end in "=/"]
    shown = (text for text in found if word.startswith("hydra") or not text.startswith("hydra"))
    return sorted({_with_slash(text) for text in shown if "=_" not in text})


def _with_slash(text: str) -> str:
    """A folder ends in a slash, as the shells write it."""
    key, equals, value = text.partition("=")
    return f"{key}={value}/" if equals and value.startswith((".", "/")) and Path(value).is_dir() else text
