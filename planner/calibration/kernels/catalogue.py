"""Every bundled kernel by name."""

from __future__ import annotations

from planner.calibration.kernels import attention, gemm, gguf, latent, skinny, streams
from planner.calibration.kernels.problem import Kernel
from planner.errors import UnknownName

KERNELS: tuple[Kernel, ...] = (
    *streams.KERNELS,
    *skinny.KERNELS,
    *gemm.KERNELS,
    *attention.KERNELS,
    *latent.KERNELS,
    *gguf.KERNELS,
)


def kernel_named(name: str) -> Kernel:
    """Raises UnknownName."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise UnknownName("kernel", name, [kernel.name for kernel in KERNELS])
