"""From `augment.train` and `augment.evaluate` to the transforms they name."""

from collections.abc import Mapping, Sequence
from typing import Any

from albumentations.core.serialization import Serializable

from segtrain.construct import Slot, is_node
from segtrain.data.augment import Augmentation
from segtrain.errors import ConfigError


def build_transforms(spec: Any, ignore_index: int, key: str, packages: Sequence[str] | None) -> Augmentation:
    """The transforms that a config describes, albumentations' or one's own.

    Args:
        spec: {name: {_target_: class, argument: value, ...}}; None leaves a transform out (`augment.train.blur=null`).
            Transforms may hold transforms, as `albumentations.OneOf` does.
        ignore_index: becomes `fill_mask` of every transform that would otherwise pad labels with a class; a transform
            that leaves labels alone by default (`fill_mask` None: CoarseDropout) still does.
        key: where the spec stands in the config, for messages.
        packages: see `Slot`.

    Raises:
        ConfigError: an unknown class or argument (albumentations itself would only warn), or a value that the
            transform refuses, with its key; a line for each transform that is wrong.
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{key}={spec}: name the transforms there, or write {{}} for none")
    transforms, problems = {}, []
    for name, node in spec.items():
        if node is None:
            continue
        if not is_node(node):
            problems.append(
                f"{key}.{name}={node}: a transform is {{_target_: albumentations.NAME, ...}}, or null to leave out"
            )
            continue
        try:
            # BasicTransform and BaseCompose (OneOf, Sequential) have no nearer ancestor in common.
            transforms[name] = Slot(
                f"{key}.{name}", dict(node), Serializable, {"fill_mask": ignore_index}, packages
            ).build()
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return Augmentation(transforms)
