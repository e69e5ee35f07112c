"""The model as it is exported: what comes before it and after it by choice inside."""

from torch import Tensor, nn

from segtrain.export.described import Outputs
from segtrain.inference import label_map


class ExportedGraph(nn.Module):
    """images [N, C, H, W] -> one tensor; see `segtrain.export.described.Interface`.

    Args:
        model: returns `ModelOutput`.
        normalize: uint8 -> float32; None: images arrive normalised.
        outputs: what is returned.
        threshold: of a binary task, for `labels`; see `label_map`.
    """

    def __init__(
        self, model: nn.Module, normalize: nn.Module | None, outputs: Outputs, threshold: float | None
    ) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.outputs, self.threshold = outputs, threshold

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images if self.normalize is None else self.normalize(images)).logits
        if self.outputs == "labels":
            return label_map(logits, self.threshold)
        return logits.softmax(dim=1) if self.outputs == "probabilities" else logits
