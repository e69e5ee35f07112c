"""Boundary loss: probability weighted by its distance from the class's boundary."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.losses.base import SegmentationLoss


class Boundary(SegmentationLoss):
    """The mean of phi_c(i) * p_i[c] over classes c and pixels i, with softmax probabilities p.

    phi_c is the signed Euclidean distance from class c's region in the image, in pixels: outside, the distance to the
    nearest pixel of c (1 or more); inside, 1 minus that to the nearest pixel of another class (0 or less). What is
    predicted far outside costs much, what is predicted far inside is a gain: the loss may be negative, and is least
    where the prediction is right.

    Ignored pixels are of no known class: no distance is measured to them, and they are left out of the mean (phi = 0).
    Across a void border distance counts to the nearest pixel that is known to lie on the other side. The mean runs over
    all (image, class, valid pixel) whose class has a boundary in the image. A class absent from an image, or the only
    one in it, has none: predicting it costs nothing, which is why this loss accompanies one over regions or pixels.

    Distances are computed from the labels on the CPU, image by image and class by class; a GPU waits for them.

    Args:
        num_classes: number of classes C.
        ignore_index: label of pixels that take no part.

    Source: Kervadec et al. 2019, arXiv:1812.07032, there for a foreground; phi as in the authors' code.
    """

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        maps, num_terms = [], 0
        for image_labels, image_valid in zip(labels.cpu().numpy(), valid.cpu().numpy(), strict=True):
            distances, num_classes = signed_distances(image_labels, image_valid, self.num_classes)
            maps.append(torch.from_numpy(distances))
            num_terms += num_classes * int(image_valid.sum())
        return (logits.softmax(dim=1) * torch.stack(maps).to(logits.device)).sum() / max(num_terms, 1)


def signed_distances(
    labels: NDArray[np.integer], valid: NDArray[np.bool_], num_classes: int
) -> tuple[NDArray[np.float32], int]:
    """phi of one image, and how many classes have a boundary in it.

    Args:
        labels: [H, W], in [0, C) where valid.
        valid: [H, W].
        num_classes: C.

    Returns:
        [C, H, W], 0 at pixels that are not valid and for classes without a boundary; a number from 0 to C.
    """
    phi = np.zeros((num_classes, *labels.shape), dtype=np.float32)
    present = np.unique(labels[valid])
    if len(present) < 2:
        return phi, 0
    for class_index in present:
        inside = labels == class_index
        outside = valid & ~inside
        phi[class_index][outside] = distance_to(inside)[outside]
        phi[class_index][inside] = 1 - distance_to(outside)[inside]
    return phi, len(present)


def distance_to(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each pixel's exact Euclidean distance to the nearest pixel of a region that is not empty, [H, W]."""
    elsewhere = (~region).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)
