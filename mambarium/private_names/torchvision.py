"""What is used of torchvision's detection package beyond its public names.

Its samplers, box coders and matchers are those that published detectors were trained with.
"""

from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher

__all__ = ["BalancedPositiveNegativeSampler", "BoxCoder", "Matcher"]
