"""How one replica is divided over GPUs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64] | float


class Parallel(NamedTuple):
    """How a deployment is divided; every field is an array (R,) or a scalar.

    `ep` (a divisor of tp) shards whole experts, the rest of tp splits each expert; `attention_dp` (a divisor
    of tp) runs attention data-parallel inside the group, so that attention is sharded tp / attention_dp ways.
    """

    tp: Any = 1
    pp: Any = 1
    ep: Any = 1
    attention_dp: Any = 1
    dp: Any = 1
