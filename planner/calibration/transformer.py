"""A transformer with random weights in a model's real shapes: what `planner validate` runs.

A step is a list of launches, those that the planner counts (`planner.ops`): fused products layer by layer, attention
over a cache that is really read, element-wise kernels, logits. On a GPU decode attention, 4-bit products and experts
are the bundled kernels and every layer has weights and a cache of its own; elsewhere (tests) torch does everything.
Values do not flow from one launch into the next: times do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels import problem as bundled
from planner.calibration.kernels.problem import Role
from planner.calibration.timing import Unsupported
from planner.calibration.workloads import causal
from planner.catalog.formats import weight_format
from planner.errors import BadValue
from planner.formats import is_quantized
from planner.ops import Slot
from planner.ops.products import SKEW, Group, groups
from planner.specs.model import Attention, DenseFfn, ModelSpec, MoeFfn

FORMATS = {"bf16": "", "fp8": "", "w4a16-g128": "w4a16"}  # and the bundled kernel of the dense products
EXPERT_KERNELS = {"bf16": "moe-mma-bf16", "fp8": "moe-mma-fp8", "w4a16-g128": "moe-w4a16"}
SCALE = 0.02
Launch = Callable[[], Any]


class Setting(NamedTuple):
    """Where and how the model runs. `tuner`: of the bundled kernels (`graphs.Tuner`); None: torch alone."""

    torch: Any
    device: Any
    weight_format: str
    tuner: Any = None


class Weight(NamedTuple):
    """The matrices of one product, one per layer, [n, k]; none where a bundled kernel holds them."""

    group: Group
    n: int
    k: int
    matrices: tuple[Any, ...] = ()


def check_supported(model: ModelSpec) -> None:
    """Raises BadValue for layers that the runner does not have."""
    mixers = all(isinstance(m, Attention) and not (m.window or m.chunk or m.indexer) for m in model.mixers)
    if not mixers or len(model.mixers) > 1 or not all(isinstance(f, DenseFfn | MoeFfn) for f in model.ffns):
        raise BadValue(f"{model.id}: only plain attention in every layer can be validated; try llama-3.1-8b")


def routed(tokens: int, experts: int, active: int) -> tuple[int, ...]:
    """Rows of every expert when some are asked for more often than others, as the planner expects of real prompts."""
    deviates = [NormalDist().inv_cdf((i + 0.5) / experts) for i in range(experts)]
    liked = SKEW * np.array(deviates) + np.random.default_rng(0).gumbel(size=(tokens, experts))
    chosen = np.argsort(liked, axis=1)[:, experts - active :]
    return tuple(np.bincount(chosen.ravel(), minlength=experts).tolist())


def _shape(group: Group) -> tuple[int, int]:
    k = group.members[0].k
    return sum(t.n * t.k for t in group.members) // k, k


class Transformer:
    """The model's weights on a device, and steps over them. Raises BadValue for what it cannot run."""

    def __init__(self, model: ModelSpec, setting: Setting) -> None:
        check_supported(model)
        if setting.weight_format not in FORMATS:
            raise BadValue(f"weight format {setting.weight_format!r}: validated are {', '.join(FORMATS)}")
        self.model, self.setting, self.torch = model, setting, setting.torch
        mixer = model.mixers[0]
        assert isinstance(mixer, Attention)
        self.mixer, self.half = mixer, setting.torch.bfloat16
        self.held_bytes = self.working_bytes = 0  # weights and caches; inputs and results beside them
        self.embedding = self._held((model.vocab_size, model.hidden_size), self.half)
        self.weights = [self._weight(group) for group in groups(model)]

    def _held(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A random tensor that counts as the model's memory."""
        torch, device = self.torch, self.setting.device
        found = torch.empty(shape, dtype=self.half, device=device).normal_(0, SCALE).to(dtype)
        self.held_bytes += found.numel() * found.element_size()
        return found

    def _is_bundled(self, group: Group) -> bool:
        if self.setting.tuner is None:
            return False
        if group.slot is Slot.EXPERT_GEMM:
            return True
        return bool(FORMATS[self.setting.weight_format]) and self._is_quantized(group)

    def _is_quantized(self, group: Group) -> bool:
        """Whether the format covers these matrices: routers and the head stay in 16 bit."""
        return is_quantized(self.model, group.members[0], weight_format(self.setting.weight_format))

    def _weight(self, group: Group) -> Weight:
        n, k = _shape(group)
        if self._is_bundled(group):
            return Weight(group, n, k)
        if not group.members[0].layers and self.model.tie_embeddings:
            return Weight(group, n, k, (self.embedding,))
        eight = self.setting.weight_format == "fp8" and self.setting.tuner and self._is_quantized(group)
        dtype = self.torch.float8_e4m3fn if eight else self.half
        copies = int(group.members[0].copies) if group.slot is Slot.EXPERT_GEMM else 1
        shape = (n, k) if copies == 1 else (copies, n, k)
        return Weight(group, n, k, tuple(self._held(shape, dtype) for _ in range(group.layers)))

    # Launches.

    def _inputs(self, m: int, k: int, dtype: Any = None) -> Any:
        torch = self.torch
        found = torch.randn((m, k), device=self.setting.device, dtype=torch.float32).to(dtype or self.half)
        self.working_bytes += found.numel() * found.element_size()
        return found

    def _product(self, weight: Weight, m: int) -> Callable[[int], Any]:
        """The product of one layer on m tokens."""
        torch = self.torch
        if not weight.matrices:
            return self._bundled_product(weight, m)
        if weight.group.slot is Slot.EXPERT_GEMM:
            return self._expert_product(weight, m)
        first = weight.matrices[0]
        x = self._inputs(m, weight.k, first.dtype)  # quantized by the kernel before it, as engines fuse that
        if first.dtype == self.half:
            return lambda layer: torch.mm(x, weight.matrices[layer].t())
        one = torch.ones((), device=self.setting.device)
        return lambda layer: torch._scaled_mm(
            x,
            weight.matrices[layer].t(),
            scale_a=one,
            scale_b=one,
            out_dtype=self.half,
            use_fast_accum=True,
        )

    def _expert_product(self, weight: Weight, m: int) -> Callable[[int], Any]:
        """Gate, up and down of every expert, one after the other, tokens dealt out evenly."""
        torch, first = self.torch, weight.group.members[0]
        rows = max(1, round(m * first.active / first.copies))
        x, third = self._inputs(rows, weight.k), weight.n // 3

        def run(layer: int) -> None:
            for expert in weight.matrices[layer][: min(int(first.copies), round(m * first.active))]:
                up = torch.mm(x, expert[: 2 * third].t())
                torch.mm(torch.nn.functional.silu(up[:, :third]) * up[:, third:], expert[2 * third :])

        return run

    def _bundled_product(self, weight: Weight, m: int) -> Callable[[int], Any]:
        group = weight.group
        if group.slot is Slot.EXPERT_GEMM:
            first, inner = group.members[0], weight.n // 3
            experts = (int(first.copies), int(first.active))
            counts = routed(m, *experts)
            shapes: list[Any] = [bundled.Grouped(m, 2 * inner, weight.k, *experts, counts)]
            shapes.append(bundled.Grouped(m, weight.k, inner, *experts, counts))
            name = EXPERT_KERNELS[self.setting.weight_format]
        else:
            shapes, name = [bundled.Gemm(m, weight.n, weight.k)], FORMATS[self.setting.weight_format]
        return self._prepared(name, shapes, group.layers)

    def _prepared(self, name: str, shapes: list[Any], copies: int) -> Callable[[int], Any]:
        """Bundled launches in their fastest variants, with weights and caches of their own for every layer."""
        ready, tuner = [], self.setting.tuner
        for shape in shapes:
            try:
                ready.append(tuner.fastest(name, shape, copies))
            except Unsupported as error:
                raise BadValue(f"{name} on this GPU: {error}") from None
            tuner.release()  # the next product of the same shape has other weights
            operands = ready[-1].problem.operands
            self.working_bytes += sum(operand.size_bytes for operand in operands if operand.role is not Role.COLD)

        def run(layer: int) -> None:
            for one in ready:
                one.run(self.torch.cuda.current_stream(), layer)

        return run

    def _decode_attention(self, batch: int, context: int) -> Callable[[int], Any]:
        torch, mixer, layers = self.torch, self.mixer, self.model.n_layers
        if self.setting.tuner is not None:
            shape = bundled.Decode(batch, context, mixer.n_heads, mixer.n_kv_heads, mixer.head_dim)
            return self._prepared("decode-bf16", [shape], layers)
        caches = [self._held((2, batch, mixer.n_kv_heads, context, mixer.head_dim), self.half) for _ in range(layers)]
        query = self._inputs(batch * mixer.n_heads, mixer.head_dim).view(batch, mixer.n_heads, 1, mixer.head_dim)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda layer: attend(query, caches[layer][0], caches[layer][1], enable_gqa=True)

    def _prefill_attention(self, batch: int, tokens: int) -> Callable[[int], Any]:
        torch, mixer = self.torch, self.mixer
        sizes = [mixer.n_heads, mixer.n_kv_heads, mixer.n_kv_heads]
        query, key, value = (
            self._inputs(batch * h * tokens, mixer.head_dim).view(batch, h, tokens, mixer.head_dim) for h in sizes
        )
        attend = torch.nn.functional.scaled_dot_product_attention
        if self.setting.tuner is not None:
            return causal(torch, query, key, value)
        return lambda layer: attend(query, key, value, is_causal=True, enable_gqa=True)

    def _elementwise(self, m: int) -> Callable[[int], Any]:
        """Of one layer, one kernel each that moves what a fused one does: norms with their residual, rotation, gate."""
        torch, hidden, mixer, ffn = self.torch, self.model.hidden_size, self.mixer, self.model.ffns[0]
        inner = ffn.intermediate * (ffn.top_k if isinstance(ffn, MoeFfn) else 1)
        values, residual, gain, normed = (self._inputs(m, hidden) for _ in range(4))
        rotated = self._inputs(m, (mixer.n_heads + 2 * mixer.n_kv_heads) * mixer.head_dim)
        gate, up, gated = (self._inputs(m, inner) for _ in range(3))

        def run(layer: int) -> None:
            del layer
            for _ in range(self.model.norms_per_layer):
                torch.addcmul(values, residual, gain, out=normed)
            torch.neg(rotated, out=rotated)
            torch.mul(gate, up, out=gated)

        return run

    def _ends(self, tokens: int, sampled: int) -> Launch:
        """The embedding's rows, and logits cast and reduced."""
        torch, device = self.torch, self.setting.device
        chosen = torch.arange(tokens, device=device) * 7 % self.model.vocab_size
        logits = self._inputs(sampled, self.model.vocab_size)
        wide = torch.empty(logits.shape, device=device, dtype=torch.float32)
        self.working_bytes += wide.numel() * wide.element_size() + chosen.numel() * chosen.element_size()

        def run() -> None:
            torch.index_select(self.embedding, 0, chosen)
            wide.copy_(logits)
            torch.neg(torch.amax(wide, dim=-1))

        return run

    def _step(self, tokens: int, sampled: int, attention: Callable[[int], Any]) -> Launch:
        layered: list[tuple[Callable[[int], Any], int]] = []
        heads: list[tuple[Callable[[int], Any], int]] = []
        for weight in self.weights:
            in_layers = bool(weight.group.members[0].layers)
            run = self._product(weight, tokens if in_layers else sampled)
            (layered if in_layers else heads).append((run, weight.group.layers))
        small, ends = self._elementwise(tokens), self._ends(tokens, sampled)

        def step() -> None:
            for layer in range(self.model.n_layers):
                small(layer)
                attention(layer)
                for run, layers in layered:
                    if layer < layers:
                        run(layer)
            for run, _ in heads:
                run(0)
            ends()

        return step

    def decode(self, batch: int, context: int) -> Launch:
        """One step that gives every one of `batch` sequences a token, `context` tokens being cached."""
        return self._step(batch, batch, self._decode_attention(batch, context))

    def prefill(self, batch: int, tokens: int) -> Launch:
        """One step over `batch` prompts of `tokens` tokens."""
        return self._step(batch * tokens, batch, self._prefill_attention(batch, tokens))
