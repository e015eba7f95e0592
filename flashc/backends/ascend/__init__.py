"""NPUs and accelerators whose on-chip memories a program fills itself: lowering profile, no printer yet."""

from flashc.backends.ascend.backend import BACKEND

__all__ = ["BACKEND"]
