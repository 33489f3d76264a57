"""Networks of torchvision behind the contract of a vision backbone."""

import importlib
from abc import abstractmethod
from types import ModuleType

from torch import nn

from mambarium.backbones.contract import VisionBackbone
from mambarium.errors import InputError


def torchvision_models(family: str, wanted_by: str) -> ModuleType:
    """Return a module of `torchvision.models`, imported when the first backbone needs it."""
    try:
        return importlib.import_module(f"torchvision.models.{family}")
    except ModuleNotFoundError as error:
        raise InputError(f"{wanted_by} is torchvision's: pip install torchvision (no module {error.name!r})") from error


class TorchvisionBackbone(VisionBackbone):
    """A network of torchvision, without its tail and head, which belong to `classifier`.

    Its parameters bear torchvision's names behind "network.", so that torchvision's published weights fit.
    """

    network: nn.Module

    @abstractmethod
    def new_network(self) -> nn.Module:
        """Build the network with freshly drawn parameters."""

    def reset_all_parameters(self) -> None:
        """Draw all parameters as the constructor does; torchvision's parts do so in their own constructors only."""
        self.network.load_state_dict(self.new_network().state_dict())


class TorchvisionPyramid(TorchvisionBackbone):
    """A network whose `features` are a stem, the stages' blocks, and a downsampling between any two stages.

    Attributes:
        depths: Number of blocks of each stage.
    """

    layer_patterns = (
        (r"network\.features\.(\d*[13579])\.(\d+)\.", 0),
        (r"network\.features\.([1-9]\d*)\.", 1),  # a downsampling, which counts as the block after it
    )
    depths: tuple[int, ...]
