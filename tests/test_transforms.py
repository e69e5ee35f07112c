"""From the augment config to transforms."""

import albumentations
import pytest

from segtrain.construct import KNOWN_PACKAGES
from segtrain.errors import ConfigError
from segtrain.transforms import build_transforms

FLIP = {"_target_": "albumentations.HorizontalFlip", "p": 0.5}
VERTICAL = {"_target_": "albumentations.VerticalFlip", "p": 0.5}
CROP = {
    "_target_": "segtrain.data.augment.RandomScaleCrop",
    "size": [8, 8],
    "scale": [1.0, 1.0],
    "fill": [0.5, 0.5, 0.5],
    "fill_mask": 255,
}


def build(spec, packages=None):
    return build_transforms(spec, 255, key="augment.train", packages=packages)


def test_null_leaves_a_transform_out():
    assert build({"flip": None, "vertical": VERTICAL}).names == ("vertical",)


class Nothing(albumentations.NoOp):
    """A transform of the user's own."""


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (FLIP | {"prob": 1}, r"augment\.train\.x\.prob: HorizontalFlip has no such option"),
        (
            CROP | {"filled": 1},
            r"augment\.train\.x\.filled: RandomScaleCrop has no such option; did you mean 'fill",
        ),
        ({"_target_": "albumentations.HorizontalFlap"}, "did you mean 'HorizontalFlip'"),
        ({"_target_": "albumentations.nowhere.Flip"}, "module albumentations.nowhere cannot be imported"),
        ({"_target_": "albumentations.Compose.fly"}, "module albumentations.Compose cannot be imported"),
        ({"_target_": "os.system"}, "may only name classes of segtrain"),
        ({"_target_": f"{__name__}.Nothing"}, "may only name classes of segtrain"),
        ({"p": 0.5}, "_target_"),
        (0.5, r"augment\.train\.x=0\.5"),
        (
            {"_target_": "albumentations.RandomCrop", "height": 4},
            r"augment\.train\.x\.width is missing: RandomCrop needs",
        ),
        ({"_target_": "albumentations.RandomCrop", "height": 4, "width": 0}, r"width=0: Input should be greater"),
        (CROP | {"scale": [2, 1]}, r"augment\.train\.x\.scale=\[2, 1\] is not"),
        (CROP | {"size": [8]}, r"augment\.train\.x\.size=\[8\] is not \[height, width\]"),
        (CROP | {"size": 8}, r"augment\.train\.x\.size=8 is not a list"),
    ],
)
def test_a_wrong_transform_is_a_config_error_with_its_key(node, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build({"x": node}, packages=KNOWN_PACKAGES)
    assert "\n" not in str(caught.value)


def test_a_wrong_argument_of_an_inner_transform_has_its_whole_key():
    outer = {"_target_": "albumentations.OneOf", "transforms": [FLIP, FLIP | {"q": 1}]}
    with pytest.raises(ConfigError, match=r"augment\.train\.one\.transforms\.1\.q"):
        build({"one": outer})


def test_a_users_own_config_may_name_ones_own_transform():
    assert build({"x": {"_target_": f"{__name__}.Nothing"}}).names == ("x",)


def test_a_users_own_config_may_still_name_nothing_but_transforms():
    with pytest.raises(ConfigError, match="is no albumentations"):
        build({"x": {"_target_": "os.system"}})
