"""A first convolution made for RGB, for images of any number of channels."""

from torch import Tensor


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """The weight of a first convolution made for RGB, for images of `in_channels` channels.

    1 channel: the sum over RGB, so a grey image gives what its three equal copies gave. n channels: R, G, B, R, ...
    in turn, times 3 / n, so that the response to n equal channels stays what it was to three.

    Args:
        weight: [out, 3, k, k].

    Returns: [out, in_channels, k, k].
    """
    if in_channels == 3:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % 3 for channel in range(in_channels)]] * (3 / in_channels)
