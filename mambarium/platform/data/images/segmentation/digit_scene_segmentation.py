"""Handwritten digits on dark photographs, with the class of each pixel."""

import torch

from mambarium.platform.data.images.dense.digit_scenes import DigitSceneImages, Scene
from mambarium.platform.data.images.segmentation.segmentation_images import SegmentationImages
from mambarium.platform.data.images.segmentation.segmentation_samples import SegmentationSample, segmentation_sample


class DigitSceneSegmentation(DigitSceneImages[SegmentationSample], SegmentationImages):
    """Handwritten digits on dark photographs, the class of each pixel (from scikit-learn, no download).

    Class 0 is the background, class d + 1 the digit d. A scene of `DigitSceneDetection` with the same seed, size, pass
    and index is the same picture; the arguments are those of `DigitSceneImages`.
    """

    names_of_classes = ["background", *(str(digit) for digit in range(10))]  # noqa: RUF012  # typed in the base class

    @staticmethod
    def annotated(scene: Scene, index: int) -> SegmentationSample:
        classes = (scene.labels + 1)[:, None, None] * scene.masks  # (digits, size, size)
        return segmentation_sample(scene.image, classes.amax(dim=0).to(torch.uint8), image_id=index)
