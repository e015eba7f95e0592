"""This machine's CPU and GPU as devices; the CPU's probe runs once and is kept in the cache."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flashc.errors import CompilerMissingError, DeviceAbsentError
from flashc.hwmodels.build import device_from_document
from flashc.hwmodels.load import list_devices, load_device, shared_sources
from flashc.hwmodels.machine import Machine, read_machine
from flashc.hwmodels.model import Device
from flashc.hwmodels.notice import print_notice
from flashc.hwmodels.probe import SOURCE, assume, document, measure
from flashc.system.cache import Cache, key_of

_KIND, _FILE = "probe", "device.json"
_QUERY_SECONDS = 20


class Gpu(NamedTuple):
    """A GPU as its driver describes it; ``arch`` in the device files' spelling (sm_90, gfx942)."""

    name: str
    arch: str


def native_cpu(notify: Callable[[str], None] = print_notice, *, again: bool = False) -> Device:
    """The CPU of this machine, measured at first use, or once more on request (``again``).

    It is measured anew when model, instruction sets, caches or the usable cores differ. Without a C++
    compiler it has the usual rates of its instruction set as tagged defaults, which are not kept.
    """
    machine = read_machine()
    cache, key = Cache.default(), _machine_key(machine)
    if again:
        cache.remove(_KIND, key)

    def build(folder: Path) -> None:
        notify(f"measuring this CPU ({machine.model}, {len(machine.cpus)} cores), once: about 5 s")
        text = json.dumps(document(machine, measure(machine)), indent=1)
        (folder / _FILE).write_text(text, encoding="utf-8")

    try:
        text = (cache.get_or_build(_KIND, key, build) / _FILE).read_text(encoding="utf-8")
    except CompilerMissingError as error:
        notify(f"{error}; taking this CPU's rates by its instruction set")
        return device_from_document("native", document(machine, assume(machine)), shared_sources())
    return device_from_document("native", json.loads(text), shared_sources())


def native_gpu(notify: Callable[[str], None] = print_notice) -> Device:
    """The model of this machine's first GPU. Raises DeviceAbsentError without a GPU or a model of it."""
    gpu = find_gpu()
    if gpu is None:
        raise DeviceAbsentError("native-gpu: neither nvidia-smi nor torch finds a GPU on this machine")
    return model_of(gpu, notify)


def find_gpu() -> Gpu | None:
    """The first GPU that nvidia-smi names, or else torch if it is installed."""
    return _gpu_of_driver() or _gpu_of_torch()


def model_of(gpu: Gpu, notify: Callable[[str], None] = print_notice) -> Device:
    """The device whose `product_names` hold the GPU's name, else one of its architecture, with a notice."""
    devices = [device for name in list_devices() if (device := load_device(name)).kind == "gpu"]
    for device in devices:
        if _plain(gpu.name) in map(_plain, device.product_names):
            return device
    kin = [device for device in devices if device.arch == gpu.arch and device.unusable is None]
    if not kin:
        raise DeviceAbsentError(
            f"native-gpu: this machine's GPU {gpu.name!r} ({gpu.arch}) has no model; "
            "name a device, or add one (docs/devices.md)"
        )
    notify(f"GPU {gpu.name!r} has no model of its own; taken as {kin[0].name}, also {gpu.arch}")
    return kin[0]


def _machine_key(machine: Machine) -> str:
    facts = json.dumps(dataclasses.asdict(_stable(machine)), default=sorted)
    return key_of(facts, SOURCE.read_text(encoding="utf-8"))


def _stable(machine: Machine) -> Machine:
    """Without what changes from one moment to the next: the current clock and the exact amount of memory."""
    return dataclasses.replace(machine, clock_ghz=None, memory_bytes=0)


def _gpu_of_driver() -> Gpu | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.splitlines()[0].split(",") if done.returncode == 0 and done.stdout.strip() else []
    return Gpu(first[0].strip(), "sm_" + first[1].strip().replace(".", "")) if len(first) == 2 else None


def _gpu_of_torch() -> Gpu | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    hip = getattr(properties, "gcnArchName", "") if torch.version.hip else ""
    return Gpu(properties.name, hip.split(":")[0] or f"sm_{properties.major}{properties.minor}")


def _plain(name: str) -> str:
    return "".join(name.lower().split())
