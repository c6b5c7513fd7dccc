"""Tell what each output of a graph holds: class scores, by which layer, or an embedding.

The layers that end an output come first, then its name, then the width and the bias of its last linear layer.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ....thresholds.ends import End
from .ends import SECOND, embedding_under, ends_in
from .last_layer import Head, Join, find_head
from .layer_end import AFTER_LINEAR
from .layers import Layers
from .nodes import op_set

# widths of well-known label sets: binary, CIFAR, Food-101, Tiny ImageNet and ImageNet-R/A, Places365,
# ImageNet-1k (with background), ImageNet-12k, -21k in its usual cuts
CLASS_COUNTS = frozenset((2, 10, 100, 101, 200, 365, 1000, 1001, 10450, 11221, 11821, 21841, 21843))
CLASS_NAME = re.compile(r"logit|prob|scores?\b|(^|[^a-z])class(es)?([^a-z]|$)|classif|softmax|predict|label", re.I)
CLASS_OPS = op_set(
    "Softmax LogSoftmax Sigmoid ArgMax TopK QLinearSoftmax QLinearSigmoid LabelEncoder ArrayFeatureExtractor ZipMap"
)
EMBEDDING_NAME = re.compile(r"embed|feature|represent|pooler|hidden_state|descriptor|(^|[^a-z])emb([^a-z]|$)", re.I)
Ending = Head | Join | None
"""what `find_head` returns for an output"""
OF_UNIT_VECTOR = "its last linear layer reads a vector of length 1, as that of a zero-shot head does"


class Role(NamedTuple):
    """The content of one output of the graph."""

    output: str
    head: Head | None
    is_class: bool | None
    """True: class scores; False: an embedding; None: nothing tells"""
    why: str


def role_of(layers: Layers, output: str) -> Role:
    """Return the role of an output, by the layers that end it, else by its name, else by its last linear layer."""
    end = find_head(layers, output)
    head = end if isinstance(end, Head) else None
    is_class, why = _content(layers, output, end, head)
    return Role(output, head, is_class, why)


def _content(layers: Layers, output: str, end: Ending, head: Head | None) -> tuple[bool | None, str]:
    last = ends_in(layers, output)
    ops: AbstractSet[str] = set()
    if head is not None:
        ops = head.tail.ops
    elif last.kind == "activation":
        ops = {last.op} - {"Sigmoid"}
    if score := CLASS_OPS & ops:
        return True, f"it ends in {min(score)}"
    if head is not None and head.is_cosine:
        return True, OF_UNIT_VECTOR
    is_named_class = bool(CLASS_NAME.search(output))
    if is_named_class != bool(EMBEDDING_NAME.search(output)):
        why = f"its name is {output!r}"
        if not is_named_class and (scores := like_scores(layers, output)):
            why = f"{why}, but {scores}"
        return is_named_class, why
    heads = _joined_heads(layers, end)
    if heads and all(head.is_cosine or has_class_width(head) for head in heads):
        return True, _joins(end, heads)
    if head is None:
        return False, like_scores(layers, output) or "no linear layer ends it"
    return _by_last_layer(layers, head, last)


def _by_last_layer(layers: Layers, head: Head, last: End) -> tuple[bool | None, str]:
    if head.tail.is_scaled:
        return None, f"a factor follows its last linear layer ({head.op})"
    is_wide = has_class_width(head)
    if is_wide and head.tail.writes_bias:
        return True, f"its last linear layer has a bias and {head.classes} outputs"
    if embedding_under(layers, head.tensor) is not None:
        return None, f"what its last linear layer ({head.op}) reads could be an embedding itself"
    if head.tail.is_unit and last == AFTER_LINEAR and not is_wide:
        return False, f"an L2 norm follows its last linear layer ({head.op})"
    if head.classes and not is_wide and not head.tail.has_bias:
        return False, f"a projection without bias to {head.classes} features ends it"
    if not is_wide and head.tail.is_activated:
        return False, f"an activation follows its last linear layer ({head.op})"
    bias = "a" if head.tail.has_bias else "no"
    return None, f"its last linear layer has {head.classes or 'an unknown number of'} outputs and {bias} bias"


def joined_ends(layers: Layers, end: Ending) -> list[Ending]:
    """Return the ends of the branches of a join. Anything else has none."""
    return [find_head(layers, branch) for branch in end.branches] if isinstance(end, Join) else []


def _joined_heads(layers: Layers, end: Ending) -> list[Head]:
    """Return the heads that a join reads: none where a branch ends in anything else, or in a convolution."""
    ends = joined_ends(layers, end)
    heads = [end for end in ends if isinstance(end, Head) and "Conv" not in end.op]
    return heads if len(heads) == len(ends) else []


def _joins(end: Ending, heads: Sequence[object]) -> str:
    return f"{end.op if end else ''} joins {len(heads)} linear layers as class scores have"


def like_scores(layers: Layers, tensor: str) -> str:
    """Return why `tensor` holds class scores by its layers, whatever its name is: "" where it does not.

    Logits on images of one category have few extreme classes in every image: only the graph tells them apart.
    """
    if ends_in(layers, tensor) == SECOND:
        return "its last linear layer reads another one, as a head on embeddings does"
    head = find_head(layers, tensor)
    if any(isinstance(end, Head) and end.is_cosine for end in joined_ends(layers, head)):
        return OF_UNIT_VECTOR
    heads = _joined_heads(layers, head)
    if heads and all(_is_classifier(head) for head in heads):
        return _joins(head, heads)
    if not isinstance(head, Head) or head.tail.is_activated:
        return ""
    if score := CLASS_OPS & head.tail.ops:
        return f"it ends in {min(score)}, as class scores do"
    if head.is_cosine:
        return OF_UNIT_VECTOR
    if _is_classifier(head):
        return f"its last linear layer has a bias and {head.classes} outputs, as class scores have"
    return "a factor follows its last linear layer, as behind a zero-shot head" if head.tail.is_scaled else ""


def _is_classifier(head: Head) -> bool:
    return has_class_width(head) and head.tail.writes_bias


def has_class_width(head: Head) -> bool:
    """Return whether a head has the width of a label set, a well-known count or not a multiple of 8."""
    return head.classes in CLASS_COUNTS or (head.classes or 0) % 8 != 0
