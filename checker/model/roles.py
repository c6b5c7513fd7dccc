"""Tell what each output of a graph holds: class scores, or an embedding. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from robustcheck_onnx.thresholds.ends import End

from .ends import AFTER_LINEAR, SECOND, embedding_under, ends_in
from .heads import GATE, SCALE, UNIT, Head, Join, find_head
from .layers import Layers

# widths of well-known label sets: binary, CIFAR, Food-101, Tiny ImageNet and ImageNet-R/A, Places365,
# ImageNet-1k (with background), ImageNet-12k, -21k in its usual cuts
CLASS_COUNTS = frozenset((2, 10, 100, 101, 200, 365, 1000, 1001, 10450, 11221, 11821, 21841, 21843))
CLASS_NAME = re.compile(r"logit|prob|scores?\b|(^|[^a-z])class(es)?([^a-z]|$)|classif|softmax|predict|label", re.I)
CLASS_OPS = frozenset(("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "TopK", "QLinearSoftmax", "QLinearSigmoid",
                       "LabelEncoder", "ArrayFeatureExtractor", "ZipMap"))  # fmt: skip
ACTIVATED = frozenset(("Relu", "Clip", GATE))  # class scores go through none of these
EMBEDDING_NAME = re.compile(r"embed|feature|represent|pooler|hidden_state|descriptor|(^|[^a-z])emb([^a-z]|$)", re.I)
COSINE = "its last linear layer reads a vector of length 1, as that of a zero-shot head does"


@dataclass(frozen=True)
class Role:
    """What one output of the graph holds."""

    output: str
    is_class: bool | None
    """True: class scores; False: an embedding; None: nothing tells"""
    why: str
    head: Head | None
    doubted: bool = False
    """its name says embedding, but its last layer says class scores"""


def role_of(layers: Layers, output: str) -> Role:
    """Tell what an output holds: by the layers that end it, then by its name, then by its last linear layer."""
    end, last = find_head(layers, output), ends_in(layers, output)
    head = end if isinstance(end, Head) else None
    activation = {last.op} if last.kind == "activation" else set()
    score = CLASS_OPS & (head.crossed if head else activation - {"Sigmoid"})
    if score:
        return Role(output, True, f"it ends in {min(score)}", head)
    if head is not None and head.cosine:
        return Role(output, True, COSINE, head)
    class_like, embedding_like = bool(CLASS_NAME.search(output)), bool(EMBEDDING_NAME.search(output))
    if class_like != embedding_like:
        scores = "" if class_like else like_scores(layers, output)
        why = f"its name is {output!r}"
        return Role(output, class_like, f"{why}, but {scores}" if scores else why, head, bool(scores))
    if isinstance(end, Join):
        heads = [find_head(layers, branch) for branch in end.branches]
        if all(isinstance(h, Head) and "Conv" not in h.op and (h.cosine or has_class_width(h)) for h in heads):
            return Role(output, True, f"{end.op} joins {len(heads)} linear layers as class scores have", None)
    if head is None:
        scores = like_scores(layers, output)
        return Role(output, False, scores or "no linear layer ends it", None, bool(scores))
    if SCALE in head.crossed:
        return Role(output, None, f"a factor stands behind its last linear layer ({head.op})", head)
    if has_class_width(head) and head.writes_bias:
        return Role(output, True, f"its last linear layer has a bias and {head.classes} outputs", head)
    if embedding_under(layers, head.tensor) is not None:
        return Role(output, None, f"what its last linear layer ({head.op}) reads could be an embedding itself", head)
    if UNIT in head.crossed and last == AFTER_LINEAR and not has_class_width(head):
        return Role(output, False, f"an L2 norm stands behind its last linear layer ({head.op})", head)
    if head.classes and not has_class_width(head) and not head.has_bias:
        return Role(output, False, f"a projection without bias to {head.classes} features ends it", head)
    if not has_class_width(head) and ACTIVATED & head.crossed:
        return Role(output, False, f"an activation stands behind its last linear layer ({head.op})", None)
    last_layer = f"{head.classes or 'an unknown number of'} outputs and {'a' if head.has_bias else 'no'} bias"
    return Role(output, None, f"its last linear layer has {last_layer}", head)


def heads_joined(layers: Layers, output: str) -> str:
    """Say which tensors the linear layers read whose outputs are joined; "" where that is not what ends `output`."""
    end = find_head(layers, output)
    heads = [find_head(layers, branch) for branch in end.branches] if isinstance(end, Join) else []
    read = sorted({head.tensor for head in heads if isinstance(head, Head)})
    return f": {len(heads)} heads are joined, which read {', '.join(read)}" if read else ""


def like_scores(layers: Layers, tensor: str) -> str:
    """Say why the layers before `tensor` make class scores, whatever it is called; "" where they do not.

    Logits on images of one category have few extreme classes in every image: only the graph tells them apart.
    """
    if ends_in(layers, tensor) == SECOND:
        return "its last linear layer reads another one, as a head on embeddings does"
    head = find_head(layers, tensor)
    if isinstance(head, Join):
        heads = [find_head(layers, branch) for branch in head.branches]
        if any(isinstance(h, Head) and h.cosine for h in heads):
            return COSINE
        if all(isinstance(h, Head) and "Conv" not in h.op and has_class_width(h) and h.writes_bias for h in heads):
            return f"{head.op} joins {len(heads)} linear layers as class scores have"
        return ""
    if not isinstance(head, Head) or ACTIVATED & head.crossed:
        return ""
    if score := CLASS_OPS & head.crossed:
        return f"it ends in {min(score)}, as class scores do"
    if head.cosine:
        return COSINE
    if has_class_width(head) and head.writes_bias:
        return f"its last linear layer has a bias and {head.classes} outputs, as class scores have"
    if SCALE in head.crossed:
        return "a factor stands behind its last linear layer, as behind a zero-shot head"
    return ""


def has_class_width(head: Head) -> bool:
    """Whether label sets have the head's width and embeddings hardly: a well-known count, or no multiple of 8."""
    return head.classes is not None and (head.classes in CLASS_COUNTS or head.classes % 8 != 0)


def is_untrained_pooler(layers: Layers, output: str) -> bool:
    """Whether an output is transformers' pooler of ViT, a layer that most checkpoints hold no weights for."""
    vector = EMBEDDING_NAME.search(output) is not None and len(layers.shapes.get(output, ())) == 2
    return vector and ends_in(layers, output) == End("activation", "Tanh")
