"""Handwritten digits on dark photographs, with boxes and masks."""

from mambarium.platform.data.images.dense.digit_scenes import DigitSceneImages, Scene
from mambarium.platform.data.images.detection.detection_images import DetectionImages
from mambarium.platform.data.images.detection.detection_samples import DetectionSample, boxes_of_masks, detection_sample


class DigitSceneDetection(DigitSceneImages[DetectionSample], DetectionImages):
    """Handwritten digits to be found on dark photographs, with boxes and masks (from scikit-learn, no download).

    A scene of `DigitSceneSegmentation` with the same seed, size, pass and index is the same picture; the arguments are
    those of `DigitSceneImages`.
    """

    names_of_classes = [str(digit) for digit in range(10)]  # noqa: RUF012  # typed in the base class

    @staticmethod
    def annotated(scene: Scene, index: int) -> DetectionSample:
        return detection_sample(scene.image, boxes_of_masks(scene.masks), scene.labels, index, masks=scene.masks)
