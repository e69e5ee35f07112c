"""A state dict against a module: what fits, what is missing, what is left over."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from segtrain.errors import CheckpointError
from segtrain.weights.files import find_file, read_state, some
from segtrain.weights.stem import adapt_stem


@dataclass(frozen=True)
class Match:
    """How a state dict and a module agree.

    Attributes:
        fitting: tensors of the state dict that the module has, in its shape.
        missing: names that only the module has.
        unknown: names that only the state dict has.
        misshapen: names that both have, in different shapes, with both shapes.
    """

    fitting: dict[str, Tensor]
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen)

    def __str__(self) -> str:
        """One line: how many tensors match, and a few names of each kind that does not."""
        cases = {"missing": self.missing, "not in this network": self.unknown, "of another shape": self.misshapen}
        total = len(self.fitting) + len(self.missing) + len(self.misshapen)
        found = "".join(f"; {len(names)} {what} ({some(names)})" for what, names in cases.items() if names)
        return f"{len(self.fitting)} of {total} tensors match{found}"


def match(module: nn.Module, state: dict[str, Tensor]) -> Match:
    """Compares names and shapes of `state` with those of `module`."""
    own = module.state_dict()
    # Files from before torch 0.4.1 do not count batches; torch fills that in, so it is nobody's mistake.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    shared = [name for name in own if name in state]
    misshapen = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in shared
        if state[name].shape != own[name].shape
    ]
    fitting = {name: state[name] for name in shared if state[name].shape == own[name].shape}
    return Match(fitting, missing, unknown, misshapen)


def load_weights(
    module: nn.Module,
    weights: str,
    url: str | None,
    *,
    stem: str,
    drop: tuple[str, ...] = (),
    rename: Callable[[str], str] | None = None,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Loads a backbone's pretrained weights; every name and every shape must match.

    Args:
        weights: `imagenet` for the file at `url`, else a path.
        url: of the published weights; downloaded once into torch.hub's checkpoint folder. None: there are none.
        stem: name of the first convolution's weight, adapted (`adapt_stem`) where `module` takes other than 3 channels.
        drop: prefixes of the file's parameters that `module` leaves out on purpose, the classifier's.
        rename: the file's name of a parameter -> the module's, applied after `drop`.
        convert: the file's tensors, renamed -> those of the module, where shapes differ by rule.

    Raises:
        CheckpointError: the file is missing, cannot be fetched, is damaged, or holds another network.
    """
    key = "model.backbone.weights"
    path = find_file(weights, {} if url is None else {"imagenet": url}, key)
    state = {name: value for name, value in read_state(path, key).items() if not name.startswith(drop)}
    if rename is not None:
        state = {rename(name): value for name, value in state.items()}
    if convert is not None:
        state = convert(state)
    if stem in state and state[stem].ndim == 4 and state[stem].shape[1] == 3:
        state[stem] = adapt_stem(state[stem], module.state_dict()[stem].shape[1])
    found = match(module, state)
    if not found.complete:
        raise CheckpointError(f"{key}: {path} does not fit: {found}")
    module.load_state_dict(state, strict=False)  # strict but for the counts of batches that `match` forgives
