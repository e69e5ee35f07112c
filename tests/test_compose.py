"""Composing a command's config: overrides, sweeps, stored configs, and what is said about mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from segtrain.compose import Job, config_loader, rewrite_for_saved_config, run_command
from segtrain.errors import ConfigError, DataError, SegtrainError
from segtrain.explain import check_complete

Compose = Callable[..., list[Job]]


@pytest.fixture
def compose(paint_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """`compose(*overrides, own_keys=None)`: the jobs that `shop` with these overrides comes to."""
    monkeypatch.chdir(tmp_path)

    def compose(*overrides: str, own_keys: tuple[str, ...] | None = None) -> list[Job]:
        jobs: list[Job] = []
        argv = ["--config-dir", str(paint_shop), *overrides]
        assert run_command("shop", argv, jobs.append, own_keys=own_keys) == 0
        return jobs

    return compose


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def test_a_job_holds_the_composed_config_unresolved_and_without_hydras_node(compose: Compose):
    [job] = compose("paint.coats=7")
    assert plain(job.config) == {
        "seed": 0,
        "debug": False,
        "paint": {"brush": {"width": 1}, "coats": 7, "size": "${shape.size}", "tin": "???"},
        "shape": {"size": 5},
    }


def test_a_job_names_the_options_chosen_and_the_words_that_chose_them(compose: Compose):
    [job] = compose("paint/brush=round", "seed=1")
    assert job.choices == {"paint": "red", "paint/brush": "round", "shape": "round"}
    assert job.overrides == ("paint/brush=round", "seed=1")


def test_a_single_run_leaves_nothing_in_the_working_directory(compose: Compose, tmp_path: Path):
    compose("seed=1")
    assert [path.name for path in tmp_path.iterdir()] == ["paint_shop"]


def test_multirun_makes_one_job_per_combination(compose: Compose):
    jobs = compose("-m", "paint=blue,red", "seed=1,2")
    assert [(job.choices["paint"], job.config.seed) for job in jobs] == [
        ("blue", 1),
        ("blue", 2),
        ("red", 1),
        ("red", 2),
    ]


def test_options_may_stand_between_overrides(compose: Compose):
    assert len(compose("paint=blue", "-m", "seed=1,2")) == 2


def test_a_failing_job_of_a_multirun_is_reported_and_the_others_run(
    paint_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    finished = []

    def task(job: Job) -> None:
        if job.config.seed == 1:
            raise DataError("no pictures")
        if job.config.seed == 2:
            raise SystemExit(5)
        finished.append(job.config.seed)

    code = run_command("shop", ["--config-dir", str(paint_shop), "-m", "seed=1,2,3"], task)
    said = capsys.readouterr().err
    assert code == 2
    assert finished == [3]
    assert "segtrain: error: job 1 (seed=1): no pictures" in said
    assert "2 of 3 jobs failed" in said


def test_an_interrupt_ends_all_jobs_of_a_multirun(paint_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    started = []

    def task(job: Job) -> None:
        started.append(job.config.seed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command("shop", ["--config-dir", str(paint_shop), "-m", "seed=1,2"], task)
    assert started == [1]


def test_classes_in_the_working_directory_can_be_imported(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "module_of_the_user.py").write_text("class MyModel: ...\n")
    compose()
    monkeypatch.syspath_prepend("")  # forget what importlib knows about folders that have changed since
    assert __import__("module_of_the_user").MyModel.__name__ == "MyModel"


def test_a_file_named_like_one_of_segtrains_is_refused(compose: Compose, paint_shop: Path):
    (paint_shop / "optimizer").mkdir()
    (paint_shop / "optimizer" / "adamw.yaml").write_text("lr: 1\n")
    with pytest.raises(ConfigError, match="segtrain has a optimizer=adamw already"):
        compose()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pain=blue"], "no config key 'pain'; did you mean 'paint'?"),
        (["paint=blu"], "paint=blu: no such option; did you mean 'blue'? (there are: blue, red)"),
        (["paint/brush=rond"], "paint/brush=rond: no such option; did you mean 'round'?"),
        (["paint/brsh=flat"], "no config key 'paint/brsh'; did you mean 'paint/brush'?"),
        (["paint=blue", "paint/brush=flat"], "paint/brush: paint=blue has no brush to choose"),
        (
            ["paint.coatz=1"],
            "no config key 'paint.coatz'; did you mean 'paint.coats'? (a new key is written +paint.coatz=1)",
        ),
        (["coats=1"], "no config key 'coats'; did you mean 'paint.coats'?"),
        (["brush=flat"], "no config key 'brush'; did you mean 'paint/brush'?"),
        (["paint=5"], "paint=5: the value must be the name of one of its options"),
        (["~sed"], "no config key 'sed'; did you mean 'seed'?"),
        (["+seed=1"], "seed exists already: write seed=... without the +"),
        (["blue"], "'blue' is not an override; did you mean paint=blue?"),
        (["seed"], "'seed' is not an override: write KEY=VALUE or GROUP=OPTION"),
        (["seed=[1,"], "'seed=[1,': no viable alternative at input"),
        (["seed=1,2"], "'seed=1,2' names several values: -m runs one job for each; a list is written seed=[1,2]"),
        (["seed=range(1,3)"], "'seed=range(1,3)' names several values: add -m"),
        (["--confg", "job"], "unrecognized arguments: --confg"),
        (["--cfg", "job", "--package", "pant"], "--package pant: no config key 'pant'; did you mean 'paint'?"),
        (["--config-name", "shp"], "--config-name shp: no such config"),
    ],
)
def test_a_mistake_is_explained_in_one_line_with_the_nearest_right_name(compose: Compose, words: list[str], said: str):
    with pytest.raises(ConfigError) as caught:
        compose(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_yaml_file_is_told_with_file_and_line(compose: Compose, paint_shop: Path):
    (paint_shop / "paint" / "green.yaml").write_text("coats: 1\ncoats: 2\n")
    with pytest.raises(ConfigError, match=r"green\.yaml, line 2: not valid YAML: found duplicate key coats"):
        compose("paint=green")


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        ([], "paint.tin", "paint.tin has no value: set paint.tin=..."),
        (
            ["shape=square"],
            "shape.lost",
            "shape.lost: it refers to ${shpe.size}, which does not exist; did you mean 'shape",
        ),
    ],
)
def test_a_value_that_cannot_be_read_is_told_with_its_key(paint_shop: Path, words: list[str], key: str, said: str):
    with pytest.raises(ConfigError) as caught:
        run_command(
            "shop",
            ["--config-dir", str(paint_shop), *words],
            lambda job: OmegaConf.select(job.config, key, throw_on_missing=True),
        )
    assert said in str(caught.value)


def test_every_missing_value_is_named_at_once():
    with pytest.raises(ConfigError, match=r"^a\.b, c have no value: set a\.b=\.\.\. c=\.\.\.$"):
        check_complete(OmegaConf.create({"a": {"b": "???"}, "c": "???", "d": 1}))


def test_an_error_of_the_task_that_is_no_config_error_stays_what_it_is(paint_shop: Path):
    def task(job: Job) -> None:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        run_command("shop", ["--config-dir", str(paint_shop)], task)


def test_overrides_for_a_stored_config_travel_as_pairs_of_key_and_value():
    words = ["seed=1", "a.b=[1,2]", "~c", "+d='x y'", "hydra.verbose=true"]
    assert rewrite_for_saved_config(words, {"seed"}, multirun=False, loader=config_loader()) == [
        "seed=1",
        "+overrides.1.key='a.b'",
        "+overrides.1.value=[1,2]",
        "+overrides.2.key='~c'",
        "+overrides.2.value=null",
        "+overrides.3.key='+d'",
        "+overrides.3.value='x y'",
        "hydra.verbose=true",
    ]


def test_overrides_for_a_stored_config_keep_hydras_types_and_the_users_order(compose: Compose):
    [job] = compose("b.c=1e-3", "seed=4", "a='1'", "d={x:[1,null]}", "e=${f.g}", own_keys=("seed",))
    assert job.config.seed == 4
    assert "overrides" not in job.config
    assert job.saved_overrides == (("b.c", 0.001), ("a", "1"), ("d", {"x": [1, None]}), ("e", "${f.g}"))


def test_overrides_for_a_stored_config_can_be_swept(compose: Compose):
    jobs = compose("-m", "inference=whole,slide", "shape=glob(s*)", own_keys=("seed",))
    assert [job.saved_overrides for job in jobs] == [
        (("inference", "whole"), ("shape", "square")),
        (("inference", "slide"), ("shape", "square")),
    ]


def test_several_values_for_a_stored_config_without_multirun_are_told_in_the_users_words(compose: Compose):
    with pytest.raises(SegtrainError, match=r"^'a\.b=1,2' names several values"):
        compose("a.b=1,2", own_keys=("seed",))
