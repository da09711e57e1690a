"""Hidden states between bytes on the wire and tensors on a device.

On a GPU the bytes pass through pinned memory, so that the copy is one transfer and not two.
"""

import numpy as np
import torch

from models import layout


class Staging:
    """Copies hidden states in and out; one forward at a time."""

    def __init__(
        self, hidden_size: int, wire_dtype: torch.dtype, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._hidden_size, self._wire_dtype = hidden_size, wire_dtype
        self._dtype, self._device = dtype, device
        self._pinned = torch.empty(0, dtype=torch.uint8)

    def to_tensor(self, hidden: memoryview | None, num_tokens: int) -> torch.Tensor:
        """The bytes of [T, E] as a tensor on the device, in the dtype it computes in.

        Raises:
            ShapeMismatch: the bytes are not those of [T, E].
        """
        num_bytes = num_tokens * self._hidden_size * self._wire_dtype.itemsize
        layout.check_bytes("hidden states", hidden, num_bytes)
        raw = self._buffer(num_bytes)
        raw.numpy()[:] = np.frombuffer(hidden or b"", np.uint8)
        wired = raw.view(self._wire_dtype).view(num_tokens, self._hidden_size)
        return wired.to(self._device, non_blocking=True).to(self._dtype)

    def to_bytes(self, hidden: torch.Tensor) -> memoryview:
        """A tensor of [T, E] as bytes of its own that nothing will change.

        The network may still hold the tensor it gave; only a fresh copy is safe to hand out.
        """
        wired = hidden.to(self._wire_dtype, copy=True).contiguous().cpu()
        return wired.view(torch.uint8).numpy().data.cast("B")

    def _buffer(self, num_bytes: int) -> torch.Tensor:
        if self._device.type == "cpu":
            return torch.empty(num_bytes, dtype=torch.uint8)
        # The last transfer out of this memory may still be under way.
        torch.cuda.current_stream(self._device).synchronize()
        if len(self._pinned) < num_bytes:
            self._pinned = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return self._pinned[:num_bytes]
