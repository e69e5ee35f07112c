"""Parts of a model that begin to learn later."""

from collections.abc import Mapping

from torch import nn

from segtrain.errors import ConfigError, nearest


class FreezeSchedule:
    """Keeps parts of a model as they are for their first steps: no gradient, no dropout, no new statistics of norms.

    A pure function of the step, so that a resumed run needs nothing restored. What the model's config froze for good
    stays frozen.

    Args:
        model: holds the parts.
        until: the name of a part -> the number of steps after which it learns; None: nothing is frozen.

    Raises:
        ConfigError: no such part, a number below 1, or nothing would learn at first.
    """

    def __init__(self, model: nn.Module, until: Mapping[str, int] | None) -> None:
        self._model = model
        modules = dict(model.named_modules())
        self._until = dict(until or {})
        self._parts: list[tuple[nn.Module, int, list[nn.Parameter]]] = []
        for name, steps in self._until.items():
            if not name or name not in modules:
                first = ", ".join(child for child, _ in model.named_children())
                raise ConfigError(
                    f"trainer.freeze: the model has no part {name!r}{nearest(name, modules)} (there are: {first})"
                )
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
                raise ConfigError(f"trainer.freeze.{name}={steps!r}: give the number of steps, at least 1")
            learning = [parameter for parameter in modules[name].parameters() if parameter.requires_grad]
            self._parts.append((modules[name], steps, learning))
        frozen = {id(parameter) for _, _, learning in self._parts for parameter in learning}
        if all(id(parameter) in frozen for parameter in model.parameters() if parameter.requires_grad):
            raise ConfigError(f"trainer.freeze={self._until}: leaves no parameter to train at first")
        self._shown: int | None = None

    def apply(self, step: int) -> bool:
        """Puts the model into training mode and every part into its state for the update after `step` others.

        Returns:
            Whether anything has changed since the last call, so that what is built on gradients must be built anew.
        """
        still = sum(step < steps for _, steps, _ in self._parts)
        if still == self._shown:
            return False
        held = {id(parameter) for _, steps, learning in self._parts if step < steps for parameter in learning}
        for _, _, learning in self._parts:
            for parameter in learning:
                parameter.requires_grad_(id(parameter) not in held)
        self._model.train()
        for part, steps, _ in self._parts:
            if step < steps:
                part.eval()
        first, self._shown = self._shown is None, still
        return not first or still > 0

    def describe(self, step: int) -> str:
        """What learns and what does not, after `step` updates."""
        held = [f"{name} until step {steps}" for name, steps in self._until.items() if step < steps]
        return f"frozen: {', '.join(held)}" if held else f"{', '.join(self._until)} learns from now on"
