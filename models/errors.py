"""What can go wrong with a model on a device.

ModelError
├── UnsupportedModel   an architecture we do not run; names it and those we do
├── BadCheckpoint      a file of the model's directory is missing or garbled
├── WeightsMissing     the checkpoint lacks a tensor of the layers asked for
├── ShapeMismatch      a tensor, batch or hidden state has another shape than it must
├── OutOfBlocks        a KV block id beyond the cache, or a cache that does not fit the device
└── BadTemplate        a chat cannot be rendered: no template, or it refuses the messages
"""


class ModelError(Exception):
    """Base of every error this package raises."""


class UnsupportedModel(ModelError):
    """The checkpoint's architecture is not one we run."""


class BadCheckpoint(ModelError):
    """A file of the model's directory is missing or cannot be read as what it must be."""


class WeightsMissing(ModelError):
    """The checkpoint lacks files or tensors that the layers need."""


class ShapeMismatch(ModelError):
    """A tensor, batch or hidden state has another shape than it must have."""


class OutOfBlocks(ModelError):
    """A KV block id is outside the cache, or the cache does not fit the device."""


class BadTemplate(ModelError):
    """A chat cannot be rendered: the model has no template, or it refuses the messages."""
