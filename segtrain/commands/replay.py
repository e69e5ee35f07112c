"""`segtrain replay`: a step whose loss or gradient was no number, once more and with open eyes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segtrain import compose
from segtrain.build import Builder, facts_from
from segtrain.compose import Job
from segtrain.distributed.world import World
from segtrain.engine import checkpoint
from segtrain.engine.freezing import FreezeSchedule
from segtrain.engine.parts import Parts
from segtrain.engine.precision import choose_hardware, restore_random_state
from segtrain.engine.replay import Replay, Values, largest_weights, replay
from segtrain.engine.run_directory import RunDirectory
from segtrain.engine.step import TrainStep
from segtrain.errors import CheckpointError, ConfigError
from segtrain.inference import Predictor
from segtrain.load import build_criterion, check_no_weights, check_parts, check_weights
from segtrain.options import read_options
from segtrain.saved_config import apply_overrides, check_plain
from segtrain.terminal import split_words
from segtrain.types import Batch, DataFacts

OWN_KEYS = ("step", "trust", "debug")
SECTIONS = ("model", "loss", "optimizer", "inference", "trainer")
MOST_NAMES = 10  # of parameters with bad gradients that are shown


@dataclass(frozen=True)
class ReplayOptions:
    """The command's own keys; `configs/replay.yaml` says what each does."""

    step: int | None
    trust: list[str]
    debug: bool


def run(argv: Sequence[str]) -> int:
    """Raises ConfigError unless one folder or file is named, and CheckpointError where there is nothing to replay."""
    words, names = split_words(argv)
    if len(names) != 1:
        got = f", not {' '.join(names)}" if names else ""
        raise ConfigError(f"name one run: segtrain replay RUN_DIR{got}")

    def task(job: Job) -> None:
        options = read_options(job.config, ReplayOptions)
        _replay(find_evidence(Path(names[0]), options.step), job, options)

    return compose.run_command("replay", words, task, own_keys=OWN_KEYS)


def find_evidence(path: Path, step: int | None) -> Path:
    """The file that `path` is, or the newest in the run directory that `path` is; of `step`, where one is named.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir():
        return path
    folder = RunDirectory(path).nonfinite
    numbered = {
        file: int(match[1])
        for file in sorted(folder.glob("step_*.pt"))  # of one step's files that of the first rank is taken
        if (match := re.match(r"step_(\d+)", file.name))
    }
    chosen = [file for file in numbered if step is None or numbered[file] == step]
    if not chosen:
        kept = f" (there are: {', '.join(map(str, sorted(set(numbered.values()))))})" if numbered else ""
        of = "" if step is None else f" of step {step}"
        raise CheckpointError(f"{folder}: nothing to replay{of}{kept}; it is written where a loss is no number")
    return max(chosen, key=lambda file: numbered[file])


def _replay(path: Path, job: Job, options: ReplayOptions) -> None:
    contents = checkpoint.load(path)
    check_parts(contents, path, "config", "facts", "model", "criterion", "state")
    batches = _batches(contents, path)
    saved = contents["config"]
    check_plain(saved)
    config, _ = apply_overrides(saved, job)
    check_no_weights(job)
    builder = Builder(config, trusted=tuple(options.trust))
    builder.check(*SECTIONS)
    facts = facts_from(contents["facts"])
    parts, step = _built(builder, facts, contents, path)
    print(f"{path}\nfound in training: {contents.get('found', 'nothing said')}")
    print(f"samples: {', '.join(name for batch in batches for name in batch.names)}")
    for number, batch in enumerate(batches, start=1):
        print(f"\nbatch {number} of {len(batches)}\n{_table(_rows_of_batch(batch, facts))}")
    found = replay(step, batches)
    print(f"\n{_table(_rows(found))}")
    print(
        f"\nlargest weights\n{_table([(name, f'{size:.4g}') for name, size in largest_weights(parts.model).items()])}"
    )
    print(f"\n{_verdict(found)}")


def _built(builder: Builder, facts: DataFacts, contents: dict[str, Any], path: Path) -> tuple[Parts, TrainStep]:
    """Model and loss as they were before the step, in training mode, and the random state too."""
    options = builder.trainer_options()
    hardware = choose_hardware(options.device, options.precision, options.channels_last)
    model = builder.model(facts, pretrained=False)
    check_weights(model, contents, path)
    model.load_state_dict(contents["model"])
    model = model.to(hardware.device).to(memory_format=hardware.memory_format)
    normalize = builder.normalize(facts).to(hardware.device)
    parts = Parts(
        model=model,
        normalize=normalize,
        criterion=build_criterion(builder, facts, contents, path, None, model).to(hardware.device),
        optimizer=builder.optimizer(model),
        freezing=FreezeSchedule(model, options.freeze),
        schedule=lambda step: 1.0,
        train_batches=lambda step: (),
        val_batches=(),
        num_val_images=0,
        predictor=Predictor(model, normalize, builder.strategy(), hardware),
        facts=facts,
        saved={},
        draw=_nothing_to_draw,
    )
    parts.freezing.apply(contents["state"]["step"])
    step = TrainStep(parts, options, hardware, World.solo(hardware.device))
    if hardware.loss_scaling and contents.get("scaler"):
        step.scaler.load_state_dict(contents["scaler"])
    for state in contents.get("random", [])[:1]:
        restore_random_state(state)
    return parts, step


def _nothing_to_draw(examples: Any) -> Any:
    raise AssertionError("nothing is evaluated here")


def _batches(contents: dict[str, Any], path: Path) -> list[Batch]:
    kept = contents.get("batches")
    wanted = {"images": Tensor, "labels": Tensor, "names": list}
    if not isinstance(kept, list) or not kept:
        raise CheckpointError(f"{path}: holds no batches of a step that went wrong; name a file of RUN_DIR/nonfinite")
    for one in kept:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), kind) for key, kind in wanted.items()):
            raise CheckpointError(f"{path}: its batches are no images, labels and names")
    return [Batch(one["images"], one["labels"], tuple(map(str, one["names"]))) for one in kept]


def _rows_of_batch(batch: Batch, facts: DataFacts) -> list[tuple[str, str]]:
    labels = batch.labels.long()
    present = [facts.class_names[i] for i in labels.unique().tolist() if 0 <= i < facts.num_classes]
    ignored = float((labels == facts.ignore_index).float().mean())
    return [
        ("images", str(Values.of([batch.images]))),
        ("labels", f"{', '.join(present) or 'none'}; {ignored:.0%} of the pixels ignored"),
    ]


def _rows(found: Replay) -> list[tuple[str, str]]:
    first = found.activation
    rows = [("loss", f"{found.loss:.6g}")]
    rows += [(name, f"{value:.6g}") for terms in found.terms for name, value in terms.items()]
    if first is None:
        rows.append(("activations", "all finite"))
    else:
        rows += [("first activation", first.module), ("  its output", str(first.output))]
        rows.append(("  its input", str(first.inputs or "no tensor")))
        if first.inputs is not None and not first.inputs.finite:
            rows.append(("", "its input was not finite already: it comes from code between two modules"))
    rows.append(("gradient norm", f"{found.gradient_norm:.6g}"))
    rows.append(("bad gradients", f"{len(found.bad_gradients)} of {found.num_gradients} parameters"))
    shown = list(found.bad_gradients.items())[:MOST_NAMES]
    rows += [(f"  {name}", str(values)) for name, values in shown]
    if len(found.bad_gradients) > len(shown):
        rows.append(("", f"and {len(found.bad_gradients) - len(shown)} more"))
    rows.append(("backward pass", found.operation or "no operation returned NaN"))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in rows)


def _verdict(found: Replay) -> str:
    if found.reproduced:
        return "reproduced: the loss or a gradient is no number, as in the training"
    return (
        f"not reproduced: loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}. Where nothing was changed by "
        "an override, the device, the number of threads or the version of torch may be another"
    )
