"""What an inference strategy is."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

# uint8 images [N, C, H, W] -> float32 logits [N, num_classes, H, W], at the images' own size.
Forward = Callable[[Tensor], Tensor]


class Strategy(nn.Module):
    """How images of any size are brought before a model, and its logits back to their size.

    Called as `strategy(forward, images)` with uint8 images [N, C, H, W]; returns float32 logits [N, num_classes, H, W].
    A strategy owns no weights and may call `forward` any number of times, with images of any size.
    """

    def forward(self, forward: Forward, images: Tensor) -> Tensor:
        raise NotImplementedError

    def trace(self, forward: Forward, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The stages on the way to the result, each a name and logits as calling returns them; the last is the result.

        The first is called "scores": what comes out of the model. A strategy that refines it by iterations goes on with
        its log-probabilities after each of them, "iteration 1", "iteration 2", ...
        """
        yield "scores", self(forward, images)
