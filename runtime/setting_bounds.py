"""Bounds of settings, of a service and of a simulated one: a word that both have means one thing.

They are those of the messages that carry the values: what is taken here is not refused on the way.
"""

from typing import Annotated

from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]

Port = Annotated[int, Meta(ge=0, le=65535)]
File = Annotated[str, Meta(max_length=4096)]
Origin = Annotated[str, Meta(pattern="^https?://[^/*\\s]+$", max_length=512)]

MAX_NODE_ID = 128
Id = Annotated[str, Meta(min_length=1, max_length=MAX_NODE_ID)]
MIN_HANG_TIMEOUT_S, MAX_HANG_TIMEOUT_S = 2.0, 86400.0
"""Below, a busy machine would count as a hang."""
NumSpares = Annotated[int, Meta(ge=0, le=1024)]

Target = Annotated[float, Meta(ge=0, le=86400)]
Speed = Annotated[float, Meta(gt=0, le=1)]

MaxRunning = Annotated[int, Meta(ge=1, le=1 << 16)]
MaxWaiting = Annotated[int, Meta(ge=0, le=1 << 20)]
MaxStepTokens = Annotated[int, Meta(ge=1, le=1 << 20)]
MaxHeld = Annotated[int, Meta(ge=0, le=1 << 20)]

BlockTokens = Annotated[int, Meta(ge=1, le=1 << 16)]
NumBlocks = Annotated[int, Meta(ge=0, le=1 << 31)]
ReplayLogBytes = Annotated[int, Meta(ge=0, le=1 << 48)]
