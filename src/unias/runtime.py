"""The machine a run happens on: device, threads, seed, precision; and the stamp that figures carry."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unias.errors import UsageError


def pick_device(choice: str = "auto") -> torch.device:
    """auto = cuda, then mps, then cpu. Raises UsageError for a device that is not here."""
    if choice == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(choice)
    except RuntimeError as error:
        raise UsageError(f"--device: {choice!r} is not a device. Use auto, cpu, cuda, cuda:1 or mps.") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise UsageError(f"--device: {choice!r} is not on this machine. Use --device auto or cpu.")
    return device


def set_threads(threads: int | None) -> None:
    """Limit the threads of tensor operations; None leaves torch's default (all cores)."""
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads: {threads} must be at least 1.")
    torch.set_num_threads(threads)


def clock(device: torch.device) -> float:
    """``time.monotonic`` once all that was asked of the device is done: a GPU works on while Python goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def decoders() -> int:
    """Threads that decode photos while the model works: as many as it has itself, at least 2, at most 8."""
    return max(2, min(8, torch.get_num_threads()))


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next step instead of handing their pages back: 8 to 15% of a training step.

    Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    for name, value in ((mmap_threshold, 32 * 2**20), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20)):
        mallopt(name, value)


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux on x86."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> _SignalStack | None:
    """The stack on which this thread handles signals: address None = its ordinary one. None where there is no AMX to mind."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return None
    found = _SignalStack()
    return found if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0 else None


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Put this thread's signal stack back in the end.

    Every ``openvino.Core`` whose processor plugin loads sets a signal stack of its own (large enough for AMX), and on its
    death unmaps it and puts back the one it found. Two that do not die in the opposite order of their birth leave the thread
    with memory that is no longer mapped, or somebody else's by then: the next signal, such as a child's end, writes there.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def seed_everything(seed: int) -> None:
    """Same seed, data, machine, thread count and versions give the same numbers; another processor, thread count or torch
    release may round differently, so figures then agree closely but not to the bit."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_seed(seed: int, step: int) -> int:
    """The seed of one training step's noise: a resumed run draws what the whole run would have drawn."""
    return (seed * 1_000_003 + step * 7_919 + 17) % 2**63


def cpu_has_bfloat16() -> bool:
    """True where the processor multiplies bfloat16 itself (AVX512-BF16 or AMX): elsewhere it is slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


def pick_precision(choice: str, device: torch.device) -> str:
    """Lightning's name of the training precision: auto is bf16-mixed where processor or GPU has it, float32 elsewhere."""
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if device.type == "cpu" and cpu_has_bfloat16() else "32-true"


INFERENCE = ("float32", "auto", "bfloat16")


def half_of(device: torch.device) -> torch.dtype | None:
    """bfloat16 where processor or GPU computes in it, float16 on a GPU that is older; None where neither helps."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else None


def inference_half(choice: str, device: torch.device) -> torch.dtype | None:
    """What a model in use computes in: None = float32; auto takes half precision where the device has it.

    Raises UsageError for another name, and for bfloat16 on a processor that would only be slower with it.
    """
    if choice not in INFERENCE:
        raise UsageError(f"--precision: {choice!r} is not one of {', '.join(INFERENCE)}.")
    half = None if choice == "float32" else half_of(device)
    if choice == "bfloat16" and half is not torch.bfloat16:
        raise UsageError(f"--precision bfloat16: {device} does not compute in bfloat16. Use auto or float32.")
    return half


def processor_name() -> str:
    """The processor as the operating system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine(device: torch.device | None = None) -> str:
    """One line: processor, cores, memory, accelerator."""
    cores = os.cpu_count() or 1
    try:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        memory = ""
    accelerator = f", {torch.cuda.get_device_name(device)}" if device is not None and device.type == "cuda" else ""
    bf16 = ", bfloat16" if cpu_has_bfloat16() else ""
    return f"{processor_name()}, {cores} cores{memory}{bf16}{accelerator}, {platform.system()}"


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    import timm
    import torchvision

    from unias import __version__

    return {
        "unias": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


def commit() -> str:
    """The git commit of the package's own checkout with "+" where files differ from it; "release" outside a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        if not git("ls-files", "--error-unmatch", "errors.py"):
            return "release"
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "release"


def stamp(device: torch.device | None = None) -> dict[str, Any]:
    """What every figure carries: commit, versions and machine."""
    return {"commit": commit(), "machine": machine(device), "threads": torch.get_num_threads(), "versions": versions()}
