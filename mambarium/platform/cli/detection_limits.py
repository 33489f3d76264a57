"""How many detections of an image a detector makes and average precision counts, against what the data holds."""

from __future__ import annotations

from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.core.multitask import MultiTaskData
from mambarium.platform.data.images.detection.detection_images import DetectionImages
from mambarium.tasks.detection.average_precision import OFFICIAL_LIMITS
from mambarium.tasks.detection.detection_task import DetectionObjective
from mambarium.tasks.multitask.several_tasks import ObjectiveSet
from mambarium.tasks.objective import Objective
from mambarium.tasks.task import Task


def detection_limits(model: Task, data: ExactDataModule) -> list[str]:
    """What is said of these limits at the start of a run: nothing without a detector, else a line, or two.

    Args:
        model: The task.
        data: Its data.
    """
    if isinstance(model.objective, ObjectiveSet) and isinstance(data, MultiTaskData):
        return [
            f"{line} ({name})"
            for name, of_task in data.tasks.items()
            for line in limits_of(model.objective.objective(name), of_task)
        ]
    return limits_of(model.objective, data)


def limits_of(objective: Objective, data: ExactDataModule) -> list[str]:
    """What is said of the limits of one task."""
    if not isinstance(objective, DetectionObjective) or not isinstance(data, DetectionImages):
        return []
    kept = objective.detector.detections_per_image
    lvis = objective.class_frequencies is not None
    counted = objective.counted_detections or OFFICIAL_LIMITS[lvis]
    of_each, of_one = ("", "") if lvis else (" of each class", " of one class")
    in_all = "no limit of" if kept is None else f"at most {kept:,}"
    lines = [f"limits   {in_all} detections per image; average precision counts {counted:,}{of_each}"]
    most, most_of_one = data.most_objects()
    most_counted = most if lvis else most_of_one
    if kept is not None and kept < most:
        lines.append(
            f"note     an image holds {most:,} objects: raise detections_per_image of the detector to that or more"
        )
    elif lvis and kept is not None and kept < counted:
        lines.append(f"note     LVIS counts {counted:,} detections: raise detections_per_image of the detector to that")
    if counted < most_counted:
        lines.append(
            f"note     an image holds {most_counted:,} objects{of_one}: raise counted_detections to that or more"
        )
    return lines
