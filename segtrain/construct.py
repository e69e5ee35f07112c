"""How a config node becomes an object: find its class, check every argument against the signature, then call it.

`_target_` names the class; the class's own constructor is the schema. Nothing is constructed before everything has been
checked, so that one run of the command shows all that is wrong, each line with its config key.
"""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

from segtrain.errors import ConfigError, SegtrainError, nearest, one_line

# What a config out of a checkpoint may name: it comes from whoever made the file. `build` narrows it to one base class.
KNOWN_PACKAGES = ("segtrain", "torch.optim", "torch.nn", "torchvision", "albumentations")


@dataclass
class Slot:
    """A place in the config where an object belongs.

    Attributes:
        key: the node's config key, for messages.
        node: plain dict, interpolations resolved; holds `_target_`.
        base: the class the object must be an instance of; a function that returns one is not accepted.
        provided: arguments that do not stand in the config (`num_classes`), given to whatever takes them and does not
            say None by default.
        packages: packages `_target_` may name; None for any that is importable.
    """

    key: str
    node: dict[str, Any]
    base: type
    provided: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] | None = None

    def check(self) -> list[str]:
        """What is wrong with the node and the nodes in it, a line each; empty if it can be built."""
        return self._check(self.key, self.node, self.base)

    def build(self) -> Any:
        """The object.

        Raises:
            ConfigError: the node is wrong, or the constructor refused its arguments.
        """
        problems = self.check()
        if problems:
            raise ConfigError("\n".join(problems))
        return self._build(self.key, self.node)

    def _check(self, key: str, node: dict[str, Any], base: type) -> list[str]:
        cls = find_class(node.get("_target_"), base, key, self.packages)
        if isinstance(cls, str):
            return [cls]
        arguments = {name: value for name, value in node.items() if name != "_target_"}
        parameters, hints = signature(cls)
        problems = check_arguments(key, arguments, parameters, hints, self.provided, cls.__name__)
        for name, value in arguments.items():
            problems += self._check_nested(f"{key}.{name}", value, _class_of(hints.get(name)) or base)
        return problems

    def _check_nested(self, key: str, value: Any, base: type) -> list[str]:
        if is_node(value):
            return self._check(key, value, base)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [problem for name, item in items for problem in self._check_nested(f"{key}.{name}", item, base)]

    def _build(self, key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._build(f"{key}.{index}", item) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        arguments = {name: self._build(f"{key}.{name}", item) for name, item in value.items() if name != "_target_"}
        if not is_node(value):
            return arguments
        cls = find_class(value["_target_"], object, key, self.packages)
        assert not isinstance(cls, str)
        parameters, _ = signature(cls)
        arguments |= {
            name: given
            for name, given in self.provided.items()
            if name in parameters and name not in value and parameters[name].default is not None
        }
        try:
            return cls(**arguments)
        except ConfigError as error:
            raise ConfigError(_with_key(key, str(error), parameters)) from error
        except SegtrainError:
            raise
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(f"{key}: {cls.__name__} refused its arguments: {one_line(error)}") from error


def is_node(value: Any) -> bool:
    """Whether a plain config value describes an object."""
    return isinstance(value, dict) and "_target_" in value


def find_class(path: Any, base: type, key: str, packages: Sequence[str] | None) -> type | str:
    """The class at the dotted `path`, or what is wrong with it in one line."""
    if not isinstance(path, str) or "." not in path:
        return f"{key}._target_={path!r} is no dotted path to a class (package.module.Class)"
    if packages is not None and not any(path.startswith(package + ".") for package in packages):
        return (
            f"{key}._target_={path}: a config out of a checkpoint may only name classes of {', '.join(packages)}; "
            f"if you trust the file, add trust=[{path.split('.')[0]}]"
        )
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's own may fail in any way
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "?")
        why = "" if absent else f" ({type(error).__name__}: {one_line(error)})"
        return f"{key}._target_={path}: module {module_name} cannot be imported{why}; is it in the working directory?"
    found = getattr(module, class_name, None)
    if found is None:
        return f"{key}._target_={path}: {module_name} has no class {class_name}{nearest(class_name, dir(module))}"
    if not inspect.isclass(found) or not issubclass(found, base):
        return f"{key}._target_={path} is no {base.__module__}.{base.__name__}, which is what belongs here"
    if packages is not None and not any((found.__module__ + ".").startswith(package + ".") for package in packages):
        return f"{key}._target_={path} leads to {found.__module__}, outside {', '.join(packages)}"
    return found


def signature(cls: type) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters of a constructor by name, and their annotations as far as they can be evaluated."""
    parameters = dict(inspect.signature(cls).parameters)
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    return parameters, hints


def check_arguments(
    key: str,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
    provided: Mapping[str, Any],
    owner: str,
) -> list[str]:
    """What is wrong with `arguments` for a callable of this signature, a line each.

    Args:
        key: config key of the node, the prefix of every line; "" for the config itself.
        arguments: by name, as they stand in the config.
        parameters: of the callable.
        hints: its annotations.
        provided: arguments that will be given besides.
        owner: what the callable is called in the message.
    """
    prefix = f"{key}." if key else ""
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    problems = []
    for name, value in arguments.items():
        if name not in parameters:
            if not takes_any:
                problems.append(f"{prefix}{name}: {owner} has no such option{nearest(name, parameters)}")
        elif not is_node(value) and not fits(value, hints.get(name, Any)):
            problems.append(f"{prefix}{name}={value!r} is not {describe(hints[name])}")
    for name, parameter in parameters.items():
        optional = parameter.default is not inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if not optional and name not in arguments and name not in provided:
            problems.append(f"{prefix}{name} is missing: {owner} needs it")
    return problems


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain config value is of the annotated type. What cannot be told is accepted.

    int fits float, a list fits tuple and Sequence; bool does not fit int.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin in (list, Sequence, set):
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            is_node(item) or (fits(name, arguments[0]) and fits(item, arguments[1])) for name, item in value.items()
        )
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation in (str, Path):
        return isinstance(value, str)
    if annotation in (list, tuple):
        return isinstance(value, list)
    if annotation is dict:
        return isinstance(value, dict)
    if (owner := _class_of(annotation)) is not None and not issubclass(owner, Enum):
        # An object belongs here, which a node describes, or the dict a TypedDict does, or an abstract Iterable.
        return isinstance(value, dict) or (inspect.isabstract(owner) and isinstance(value, owner))
    return True


def describe(annotation: Any) -> str:
    """An annotation in a user's words: `an int`, `one of 'max', 'min'`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        plain = [option for option in arguments if _class_of(option) in (None, Path)]  # not torch's `float | Tensor`
        return " or ".join(describe(option) for option in plain or arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (list, Sequence):
        return "a list, each " + describe(arguments[0])
    if origin in (dict, Mapping):
        return "a mapping"
    if origin is tuple:
        items = [item for item in arguments if item is not Ellipsis]
        return "a list [" + ", ".join(map(describe, items)) + "]"
    names = {
        bool: "true or false",
        int: "an int",
        float: "a number",
        str: "a string",
        Path: "a path",
        dict: "a mapping",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _with_key(key: str, message: str, parameters: Mapping[str, Any]) -> str:
    """A constructor's message led by the config key: it knows its arguments' names, not where they stand."""
    if message.startswith(key.partition(".")[0] + "."):
        return message
    leads_with_name = re.match(r"\w+", message)
    return f"{key}.{message}" if leads_with_name and leads_with_name[0] in parameters else f"{key}: {message}"


def _class_of(annotation: Any) -> type | None:
    """The class an annotation names, so that a nested node can be checked against it."""
    # typing.Any is a class
    return annotation if inspect.isclass(annotation) and annotation.__module__ not in ("builtins", "typing") else None
