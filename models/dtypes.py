"""The number formats that we name, on devices and on the wire.

A fixed table: a name that comes over the wire is looked up here and nowhere else.
"""

import torch

from models.errors import ModelError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        ModelError: the name is not in the table.
    """
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in; `auto` is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: the name is neither `auto` nor in the table.
    """
    if name == "auto":
        # CPUs multiply bfloat16 by emulation more often than not.
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch_dtype(name)
