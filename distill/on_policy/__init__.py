"""The closed loop: between epochs the live student answers, a marker says what its answers are, and they join the next epoch."""

from distill.on_policy.markers import AllNegative, JudgeMarker, Mark, Marker, Sample, Unmarked
from distill.on_policy.settings import AdaptiveShare, OnPolicy

__all__ = ["AdaptiveShare", "AllNegative", "JudgeMarker", "Mark", "Marker", "OnPolicy", "Sample", "Unmarked"]
