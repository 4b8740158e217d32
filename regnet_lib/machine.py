"""The machine a result came from: device, memory, versions."""

import ctypes
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

# Options of glibc's mallopt.
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "antspyx")


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes CUDA if there is one, else the CPU; anything else is passed to PyTorch."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"expected a device of this machine, got {device!r}; there is no CUDA device."
        )
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """`NVIDIA H200`, or the processor's model with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory_mib(device: torch.device) -> float:
    """Peak of allocated CUDA memory, or of this process's resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free, up to 2 GiB, until the process ends.

    By default glibc hands every map above 32 MiB back to the system and fetches it again page by
    page: a third of the seconds of LGANet++ on a brain of 1 mm with two threads. The process stays
    as large as it once was, which a command may do and a library may not.

    Returns:
        False where the C library is another one.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(set_option(_TRIM_THRESHOLD, 2**31 - 1) and set_option(_MAP_THRESHOLD, 2**30))


def versions() -> dict[str, str]:
    """Python and the libraries that influence numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def commit() -> str:
    """Short id of the checked-out commit, with `+` where files differ; empty outside a checkout."""
    folder = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or os.name
