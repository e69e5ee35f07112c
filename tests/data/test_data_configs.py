"""The shipped configs of data sets and augmentations agree with the classes they name."""

import inspect
from importlib import import_module

import pytest
from hydra import compose, initialize_config_module

from segtrain.data.loader import LoaderOptions
from segtrain.transforms import build_transforms

OF_EVERY_SET = {"train_split", "val_split", "mean", "std", "task", "threshold", "value_range"}


def data_config(name, *overrides):
    with initialize_config_module("segtrain.configs", version_base="1.3"):
        return compose(overrides=[f"+data={name}", *overrides]).data


def parameters(config):
    module, _, name = config._target_.rpartition(".")
    return set(inspect.signature(getattr(import_module(module), name)).parameters)


@pytest.mark.parametrize("name", ["voc", "camvid", "folder", "shapes"])
def test_a_data_config_states_every_option_and_no_other(name):
    config = data_config(name)
    loader = set(inspect.signature(LoaderOptions).parameters)
    assert set(config) - {"_target_"} == parameters(config) - {"split"} | loader | OF_EVERY_SET


@pytest.mark.parametrize("name", ["voc", "camvid", "folder", "shapes"])
def test_options_of_data_set_and_loader_are_told_apart_by_their_names(name):
    assert not parameters(data_config(name)) & set(inspect.signature(LoaderOptions).parameters)


def test_the_camvid_config_reads_camvid(shared_data):
    from segtrain.data.camvid import CamVid

    config = data_config("camvid", f"data.root={shared_data / 'camvid'}")
    arguments = {key: config[key] for key in parameters(config) - {"split"}}
    assert CamVid(split="val", **arguments).read(0).labels.shape == (360, 480)


@pytest.mark.parametrize("name", ["none", "light", "standard"])
def test_an_augmentation_config_builds(name):
    from omegaconf import OmegaConf

    with initialize_config_module("segtrain.configs", version_base="1.3"):
        config = compose(overrides=["+data=shapes", f"+augment={name}"])
    for when in ("train", "evaluate"):
        spec = OmegaConf.to_container(config.augment[when], resolve=True)
        assert build_transforms(spec, 255, f"augment.{when}", packages=None).names == tuple(spec)
