"""BatchNorm that can be trained on a batch of one."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, defined for one value per channel too.

    A batch of one image whose feature map has shrunk to 1x1 has one value per channel. Its variance is zero, so there
    is nothing to normalise by, and torch raises "Expected more than 1 value per channel when training". Here such
    a batch is normalised by the running statistics, as in evaluation, and leaves them as they are.

    Everything else, parameter names included, is torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.track_running_stats and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
