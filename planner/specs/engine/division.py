"""How an engine divides a model over several GPUs."""

from planner.specs.base import Spec
from planner.specs.engine.ranges import Tokens
from planner.specs.model import Role


class Division(Spec):
    """What goes to which GPU of a replica, and which divisions an engine has no flags for."""

    by_layers: bool = False  # GPUs of one replica hold whole layers unless matrices are divided by request
    head_is_layer: bool = False  # layers are spread over GPUs in proportion, the head counted as one more
    vocab_multiple: Tokens = 1  # to which the vocabulary is padded before it is split
    encoder_split: bool = False  # the image encoder's matrices are divided over the tensor-parallel group
    attention_dp_roles: tuple[Role, ...] = ()  # outside of attention, that its data-parallel ranks replicate
    whole_ep: bool = False  # experts are divided over all of tp or not at all
    whole_attention_dp: bool = False  # attention is data-parallel on all of tp or not at all
