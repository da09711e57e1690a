"""Devices and models that a cluster file can name instead of describing them.

They are the planner's (`scheduling.hardware`, `scheduling.model_profile`), so that a plan is
simulated on the devices that it was made for.
"""

from scheduling.hardware import CATALOGUE
from scheduling.model_profile import MODELS

__all__ = ["DEVICES", "MODELS"]

DEVICES = {name: kind.rates for name, kind in CATALOGUE.items()}
