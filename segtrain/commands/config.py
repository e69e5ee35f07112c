"""`segtrain config`: print the configuration that `segtrain train` would run with."""

from omegaconf import OmegaConf

from segtrain.compose import Job, run_command


def run(argv: list[str]) -> int:
    """Print the choices as a comment, then the composed config as YAML, nothing resolved.

    `--cfg`, `--info` and the other options are Hydra's; `--package` and `--resolve` alone imply `--cfg job`.
    """
    shows_part = {"--package", "-p", "--resolve"} & {word.partition("=")[0] for word in argv}
    shows_what = {"--cfg", "-c", "--info", "-i"} & {word.partition("=")[0] for word in argv}
    if shows_part and not shows_what:
        argv = ["--cfg", "job", *argv]
    return run_command("train", argv, _print)


def _print(job: Job) -> None:
    choices = " ".join(f"{group}={option}" for group, option in sorted(job.choices.items()))
    print(f"# {choices}\n{OmegaConf.to_yaml(job.config)}", end="")
