"""Buffers whose size is known only after fitting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FittedBuffers(nn.Module):
    """A module whose buffers take the size of what is loaded: `n_eofs: auto` is a number only after fitting.

    Dtype stays that of the declared buffer, so that weights kept in half precision stay there.
    """

    def declare(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        """Register a zero buffer under `name`."""
        self.register_buffer(name, torch.zeros(*shape, dtype=dtype))

    def put(self, name: str, value: Tensor) -> None:
        """Set a declared buffer to fitted values of any shape, in the buffer's dtype."""
        old = self.get_buffer(name)
        setattr(self, name, value.detach().to(device=old.device, dtype=old.dtype).contiguous())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in list(self._buffers.items()):
            stored = state_dict.get(prefix + name)
            if buffer is not None and stored is not None and stored.shape != buffer.shape:
                setattr(self, name, buffer.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
