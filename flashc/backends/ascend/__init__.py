"""NPUs and accelerators whose on-chip memories the program fills itself: the lowering profile; no printer yet."""

from flashc.backends.ascend.backend import BACKEND

__all__ = ["BACKEND"]
