"""What the processor is, and what it can do."""

from __future__ import annotations

import os
import platform
import re


def has_bf16() -> bool:
    """Whether the CPU multiplies matrices in bf16 (without that, bf16 is slower than fp32)."""
    return bool({"amx_bf16", "avx512_bf16"} & _flags()) or platform.machine() in ("arm64", "aarch64")


def description() -> str:
    """Model, cores and instructions, in one line."""
    match = re.search(r"(?m)^model name\s*:\s*(.*)$", _cpuinfo())
    kinds = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in _flags()]
    model = match[1].strip() if match else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {' '.join(kinds) or 'no vector extensions known'}"


def _flags() -> set[str]:
    match = re.search(r"(?m)^flags\s*:\s*(.*)$", _cpuinfo())
    return set(match[1].split()) if match else set()


def _cpuinfo() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
