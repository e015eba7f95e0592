"""Triton source for NVIDIA and AMD GPUs: printed from the IR, compiled offline for a named target."""

from flashc.backends.triton.backend import BACKEND

__all__ = ["BACKEND"]
