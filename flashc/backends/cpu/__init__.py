"""C++ for CPUs: readable source over GCC/Clang vector extensions, compiled by the system's compiler."""

from flashc.backends.cpu.backend import BACKEND

__all__ = ["BACKEND"]
