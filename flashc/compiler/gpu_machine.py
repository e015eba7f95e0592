"""What the GPU suite needs of a machine, what this one lacks of it, and what it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flashc.errors import DeviceAbsentError

PYTHON, TORCH, TRITON = (3, 12), (2, 11), (3, 6)  # the oldest that the suite is meant for
_QUERY_SECONDS = 20
_FACTS = ("name", "driver_version", "clocks.max.sm", "power.limit")


@dataclass(frozen=True)
class Software:
    """What a machine has to run Triton kernels: versions, None where missing. ``cuda``: that PyTorch was built for;
    ``driver``: NVIDIA's; ``usable``: whether PyTorch can use a GPU."""

    python: tuple[int, int]
    torch: str | None
    cuda: str | None
    triton: str | None
    driver: str | None
    usable: bool


def software() -> Software:
    """Of this machine."""
    torch_version = cuda = None
    usable = False
    try:
        import torch

        torch_version, cuda = str(torch.__version__), torch.version.cuda
        usable = bool(torch.cuda.is_available())
    except ImportError:
        pass
    driver = gpu_facts().get("driver_version")
    return Software(sys.version_info[:2], torch_version, cuda, _version("triton"), driver, usable)


def lacking(found: Software) -> list[str]:
    """What is missing or too old, each with what to do."""
    problems = []
    if found.python < PYTHON:
        problems.append(f"Python is {_dotted(found.python)}, needs {_dotted(PYTHON)}")
    if found.driver is None:
        problems.append("no NVIDIA driver: nvidia-smi finds no GPU")
    if found.torch is None:
        problems.append("PyTorch is not installed: pip install torch")
    elif found.cuda is None:
        problems.append(f"PyTorch {found.torch} is no CUDA build: install one from pytorch.org")
    elif _numbers(found.torch) < TORCH:
        problems.append(f"PyTorch is {found.torch}, needs {_dotted(TORCH)}")
    elif found.driver is not None and not found.usable:
        problems.append(f"PyTorch {found.torch} (CUDA {found.cuda}) cannot use the GPU of driver {found.driver}")
    if found.triton is None:
        problems.append("Triton is not installed: pip install triton")
    elif _numbers(found.triton) < TRITON:
        problems.append(f"Triton is {found.triton}, needs {_dotted(TRITON)}")
    return problems


def require(found: Software) -> None:
    """Raises DeviceAbsentError that names all of what is missing in one line."""
    problems = lacking(found)
    if problems:
        raise DeviceAbsentError(f"the gpu suite cannot run here: {'; '.join(problems)}")


def gpu_facts() -> dict[str, str]:
    """The first GPU as nvidia-smi describes it: name, driver_version, largest clock, power limit; {} without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(_FACTS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        return {}
    return dict(zip(_FACTS, (cell.strip() for cell in lines[0].split(",")), strict=False))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, int]:
    """Major and minor of a version such as 2.13.0+cu130."""
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
