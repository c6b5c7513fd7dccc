"""Choose the tensor that is the representation, and how it is pooled.

The reason and the alternatives come with it. What each output of the graph holds, class scores or an embedding, is
decided here, too, and object detectors are refused. Pooling gives one row per image.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from onnx import TensorProto

from ....thresholds.profile import End
from ...errors import CannotAssessError, UsageError
from ...text import frozen, quoted
from .contract import Contract
from .ends import AFTER_LINEAR, SECOND, embedding_under, ends_in
from .last_layer import GATE, SCALE, UNIT, Head, Join, find_head
from .layers import FLOATS, LINEAR, Layers, Shape
from .nodes import Names, op_set
from .pooling import choose_pool, is_vector, user_pool

# widths of well-known label sets: binary, CIFAR, Food-101, Tiny ImageNet and ImageNet-R/A, Places365,
# ImageNet-1k (with background), ImageNet-12k, -21k in its usual cuts
CLASS_COUNTS = frozenset((2, 10, 100, 101, 200, 365, 1000, 1001, 10450, 11221, 11821, 21841, 21843))
CLASS_NAME = re.compile(r"logit|prob|scores?\b|(^|[^a-z])class(es)?([^a-z]|$)|classif|softmax|predict|label", re.I)
CLASS_OPS = op_set(
    "Softmax LogSoftmax Sigmoid ArgMax TopK QLinearSoftmax QLinearSigmoid LabelEncoder ArrayFeatureExtractor ZipMap"
)
ACTIVATED = frozenset(("Relu", "Clip", GATE))  # class scores go through none of these
EMBEDDING_NAME = re.compile(r"embed|feature|represent|pooler|hidden_state|descriptor|(^|[^a-z])emb([^a-z]|$)", re.I)
Ending = Head | Join | None
"""what `find_head` returns for an output"""
COSINE = "its last linear layer reads a vector of length 1, as that of a zero-shot head does"


class Role(NamedTuple):
    """The content of one output of the graph."""

    output: str
    head: Head | None
    is_class: bool | None
    """True: class scores; False: an embedding; None: nothing tells"""
    why: str


def role_of(layers: Layers, output: str) -> Role:
    """Return the role of an output. The layers that end it decide, then its name, then its last linear layer."""
    end = find_head(layers, output)
    return Role(output, end if isinstance(end, Head) else None, *_content(layers, output, end))


def _content(layers: Layers, output: str, end: Ending) -> tuple[bool | None, str]:
    head, last = end if isinstance(end, Head) else None, ends_in(layers, output)
    activation = {last.op} if last.kind == "activation" else set()
    if score := CLASS_OPS & (head.crossed if head else activation - {"Sigmoid"}):
        return True, f"it ends in {min(score)}"
    if head is not None and head.cosine:
        return True, COSINE
    class_like = bool(CLASS_NAME.search(output))
    if class_like != bool(EMBEDDING_NAME.search(output)):
        scores = "" if class_like else like_scores(layers, output)
        return class_like, f"its name is {output!r}{', but ' if scores else ''}{scores}"
    heads = _joined(layers, end)
    if heads and all(isinstance(h, Head) and "Conv" not in h.op and (h.cosine or has_class_width(h)) for h in heads):
        return True, _joins(end, heads)
    if head is None:
        return False, like_scores(layers, output) or "no linear layer ends it"
    return _by_last_layer(layers, head, last)


def _by_last_layer(layers: Layers, head: Head, last: End) -> tuple[bool | None, str]:
    if SCALE in head.crossed:
        return None, f"a factor follows its last linear layer ({head.op})"
    is_wide = has_class_width(head)
    if is_wide and head.writes_bias:
        return True, f"its last linear layer has a bias and {head.classes} outputs"
    if embedding_under(layers, head.tensor) is not None:
        return None, f"what its last linear layer ({head.op}) reads could be an embedding itself"
    if UNIT in head.crossed and last == AFTER_LINEAR and not is_wide:
        return False, f"an L2 norm follows its last linear layer ({head.op})"
    if head.classes and not is_wide and not head.has_bias:
        return False, f"a projection without bias to {head.classes} features ends it"
    if not is_wide and ACTIVATED & head.crossed:
        return False, f"an activation follows its last linear layer ({head.op})"
    last_layer = f"{head.classes or 'an unknown number of'} outputs and {'a' if head.has_bias else 'no'} bias"
    return None, f"its last linear layer has {last_layer}"


def _joined(layers: Layers, end: Ending) -> list[Ending]:
    """Return the ends of the branches of a join. Anything else has none."""
    return [find_head(layers, branch) for branch in end.branches] if isinstance(end, Join) else []


def _joins(end: Ending, heads: Sequence[object]) -> str:
    return f"{end.op if end else ''} joins {len(heads)} linear layers as class scores have"


def like_scores(layers: Layers, tensor: str) -> str:
    """Return why `tensor` holds class scores, by its layers. Its name does not count; "" where it does not.

    Logits on images of one category have few extreme classes in every image: only the graph tells them apart.
    """
    if ends_in(layers, tensor) == SECOND:
        return "its last linear layer reads another one, as a head on embeddings does"
    head = find_head(layers, tensor)
    heads = _joined(layers, head)
    if any(isinstance(h, Head) and h.cosine for h in heads):
        return COSINE
    if heads and all(isinstance(h, Head) and "Conv" not in h.op and _is_classifier(h) for h in heads):
        return _joins(head, heads)
    if not isinstance(head, Head) or ACTIVATED & head.crossed:
        return ""
    if score := CLASS_OPS & head.crossed:
        return f"it ends in {min(score)}, as class scores do"
    if head.cosine:
        return COSINE
    if _is_classifier(head):
        return f"its last linear layer has a bias and {head.classes} outputs, as class scores have"
    return "a factor follows its last linear layer, as behind a zero-shot head" if SCALE in head.crossed else ""


def _is_classifier(head: Head) -> bool:
    return has_class_width(head) and head.writes_bias


def has_class_width(head: Head) -> bool:
    """Whether a head has the width of a label set. That is a well-known count, or not a multiple of 8."""
    return head.classes is not None and (head.classes in CLASS_COUNTS or head.classes % 8 != 0)


SHOWN = 12  # names that a message lists
# what a contract may call a tensor next to its representation; by any other rule there is that one
OTHER_RULES = ("pooled", "logits")


class Candidate(NamedTuple):
    """A tensor that could be the representation."""

    tensor: str
    rule: str
    why: str
    op: str
    """what produces it"""


@frozen
class Representation:
    """The tensor that is measured, and why this one."""

    tensor: str
    rule: str
    """encoder_output, head_input, pooled, logits or user"""
    pool: str
    """none, spatial_mean, token_cls or token_mean"""
    feature_axis: int
    ends_in: End
    why: str
    shape: Shape | None
    """before pooling; None where it can't be inferred"""
    tensor_assumed: bool = False
    """True: the graph does not settle whether this tensor is meant, nor did the user"""
    pool_assumed: bool = False
    """True: the graph does not settle how it is pooled, nor did the user"""
    dequantize: Names = ()
    """scale and zero point of a tensor that exists only quantised"""

    @property
    def assumed(self) -> bool:
        """Whether something was assumed. No PASS can rest on it."""
        return self.tensor_assumed or self.pool_assumed


class Choice(NamedTuple):
    """The representation of a graph, and its classifier's head and output."""

    representation: Representation
    head: Head | None
    class_output: str | None


def choose(
    layers: Layers, outputs: Names, where: str, *, contract: Contract | None, tensor: str | None, pool: str | None
) -> Choice:
    """Choose the representation of a graph.

    It is the contract's, else a classifier's head input, else an encoder's output.

    `outputs` are the graph's output names, `where` names the file in messages; `tensor` and `pool` are the
    user's. Where the rule has no sure choice, one of its candidates is as good as a choice of its own. With any
    other tensor, or another pool than the rule's, the rule is "user", and `why` names the rule's tensor.

    Raises:
        UsageError: a node joins several branches, several outputs could be meant, there is no such tensor or pool.
        CannotAssessError: no output depends on the image; an output named by the contract is missing.
    """
    outputs = tuple(dict.fromkeys(outputs))
    choice, asks = None, False
    try:
        choice = (
            _by_rule(layers, outputs, where) if contract is None else _by_contract(layers, outputs, where, contract)
        )
    except (CannotAssessError, UsageError) as fault:
        if tensor is None:
            raise
        asks = isinstance(fault, UsageError)
    if choice is not None and tensor in (None, choice.representation.tensor):
        chosen, head, class_output = choice.representation, choice.head, choice.class_output
        if tensor is not None:
            scores = chosen.tensor_assumed and bool(like_scores(layers, tensor))
            confirmed = "" if scores else "; confirmed by --tensor"  # nobody makes an embedding of what is like scores
            chosen = replace(chosen, tensor_assumed=scores, why=f"{chosen.why}{confirmed}")
    else:
        assert tensor is not None
        head, class_output = (choice.head, choice.class_output) if choice else (None, None)
        candidates = find_candidates(layers, outputs)
        _refuse_tensor(layers, where, tensor, candidates)
        rule, why = "logits" if tensor == class_output else "user", "set by --tensor"
        if contract is not None and tensor in contract.tensors and contract.tensors[tensor].rule in OTHER_RULES:
            rule = contract.tensors[tensor].rule
        # the rule has no sure choice and listed its candidates: one of them is as good as a choice of its own
        asks = asks or (contract is None and choice is not None and choice.representation.tensor_assumed)
        listed = [candidate for candidate in candidates if candidate.tensor == tensor]
        if asks and listed:
            rule, why = listed[0].rule, f"{why}, out of what the graph offers: {listed[0].why}"
        elif choice is not None:
            why = f"{why}; the rule reads {choice.representation.tensor}"
        chosen = _represent(layers, where, tensor, rule, why)
    if pool is not None:
        wanted = user_pool(pool, chosen.shape, chosen.tensor, where)
        rule, why = chosen.rule if wanted == chosen.pool else "user", f"{chosen.why}; {wanted} set by --pool"
        chosen = replace(chosen, pool=wanted, pool_assumed=False, rule=rule, why=why)
    return Choice(chosen, head, class_output)


def find_candidates(layers: Layers, outputs: Names) -> tuple[Candidate, ...]:
    """Return all candidates for the representation.

    These are every output, the input of the last linear layer before it, and the branches that a node joins.
    """
    candidates: dict[str, Candidate] = {}

    def add(tensor: str, rule: str, why: str) -> None:
        node = layers.producers.get(tensor)
        if layers.types.get(tensor, TensorProto.FLOAT) in FLOATS:  # no label: `--tensor` refuses it
            candidates.setdefault(tensor, Candidate(tensor, rule, why, node.op_type if node is not None else "input"))

    for output in outputs:
        if output not in layers.image_tensors:
            continue
        role = role_of(layers, output)
        end = find_head(layers, output)
        open_width = role.is_class is None and role.head is not None and has_class_width(role.head)
        if role.is_class or open_width or like_scores(layers, output):
            add(output, "logits", f"output, {'class scores' if role.is_class else 'perhaps class scores'}: {role.why}")
        else:
            add(output, "encoder_output", "output")
        if isinstance(end, Head):
            rule = "pooled" if role.is_class is False else "head_input"
            add(end.tensor, rule, f"input of the last linear layer ({end.op}) before {output}")
        elif isinstance(end, Join):
            for branch, inner in zip(end.branches, _joined(layers, end), strict=True):
                if isinstance(inner, Head):
                    add(inner.tensor, "head_input", f"input of {inner.op} in a branch that {end.op} joins")
                else:
                    add(branch, "user", f"a branch that {end.op} joins")
    return tuple(candidates.values())


def _by_rule(layers: Layers, outputs: Names, where: str) -> Choice:
    roles = [role_of(layers, name) for name in outputs if name in layers.image_tensors]
    if not roles:
        raise CannotAssessError(
            f"{where}: outputs {_listed(outputs) or '(none)'} do not depend on the image; a representation must do so",
            "export the model again",
        )

    def undecided(reason: str) -> UsageError:
        candidates = find_candidates(layers, outputs)
        listed = _listed([f"{candidate.tensor} ({candidate.why})" for candidate in candidates])
        likely = sorted(candidates, key=lambda candidate: candidate.rule != "head_input")
        return UsageError(
            f"{where}: representation is not clear; {reason}; candidates: {listed}",
            f"robustcheck {quoted(where)} --tensor {quoted(likely[0].tensor) if likely else 'NAME'}",
        )

    classes = [role for role in roles if role.is_class]
    if unclear := _unclear_head(layers, classes):
        raise undecided(unclear)
    if classes:
        classes.sort(key=lambda role: layers.types.get(role.output) not in FLOATS)  # scores before their labels
        return _head_input(layers, where, classes[0])
    roles = _encoder_outputs(layers, roles)
    if len(roles) > 1:
        raise undecided(f"outputs {_listed([r.output for r in roles])} could each be the representation")
    role = roles[0]
    doubted = bool(like_scores(layers, role.output))  # its name says embedding, but its last layer says class scores
    why = f"output of an image encoder{', assumed' if doubted else ''}: {role.why}"
    if role.is_class is None and role.head is not None:
        if not {"Gather", "Slice", "Transpose"} & role.head.crossed:
            return _head_input(layers, where, role)
        # that layer works on tokens, of which one is taken later: its input is not a vector for each image
        doubted, why = True, f"output; assumed, since it could be class scores or an embedding: {role.why}"
    return Choice(_represent(layers, where, role.output, "encoder_output", why, assumed=doubted), None, None)


def _unclear_head(layers: Layers, classes: Sequence[Role]) -> str:
    """Return why no single linear layer makes the class scores. "" where one does, or there are none."""
    for role in classes:
        if role.head is None:
            heads = _joined(layers, find_head(layers, role.output))
            read = sorted({head.tensor for head in heads if isinstance(head, Head)})
            joined = f": {len(heads)} heads are joined, which read {', '.join(read)}" if read else ""
            return f"output {role.output!r} holds class scores ({role.why}), but no single linear layer ends it{joined}"
    if len({role.head.tensor for role in classes if role.head}) > 1:
        return f"outputs {', '.join(role.output for role in classes)} have heads of their own"
    return ""


def _encoder_outputs(layers: Layers, roles: list[Role]) -> list[Role]:
    """Return the outputs that could be the representation. A vector that is named like one comes before maps."""
    roles = [  # but for the ViT pooler of transformers: most checkpoints hold no weights for that layer
        role
        for role in roles
        if len(layers.shapes.get(role.output, ())) != 2
        or not EMBEDDING_NAME.search(role.output)
        or ends_in(layers, role.output) != End("activation", "Tanh")
    ] or roles
    vectors = [r for r in roles if EMBEDDING_NAME.search(r.output) and is_vector(layers.shapes.get(r.output, ()))]
    are_maps = all(len(layers.shapes.get(r.output, (0, 0))) >= 3 for r in roles if r not in vectors)
    return vectors if len(vectors) == 1 and are_maps else roles


def _by_contract(layers: Layers, outputs: Names, where: str, contract: Contract) -> Choice:
    for name in contract.tensors:
        if name not in outputs:
            raise CannotAssessError(
                f"{where}: contract names output {name!r}; the graph has {', '.join(outputs)}",
                "export the model again with `robustcheck export`",
            )
    entry = contract.tensors["representation"]
    logits = (name for name, tensor in contract.tensors.items() if tensor.rule == "logits" and name != "representation")
    class_output = next(logits, None)
    head = find_head(layers, class_output) if class_output else None
    scores = "" if entry.rule == "logits" else like_scores(layers, "representation")
    why = f"named by the file's contract: {entry.meaning}{'; assumed, since ' if scores else ''}{scores}"
    chosen = _represent(layers, where, "representation", entry.rule, why, assumed=bool(scores))
    return Choice(chosen, head if isinstance(head, Head) else None, class_output)


def _refuse_tensor(layers: Layers, where: str, tensor: str, candidates: Sequence[Candidate]) -> None:
    """Refuse a user's tensor that can't be measured. Raises UsageError."""
    inspect = f"robustcheck inspect {quoted(where)}"
    names = sorted(layers.image_tensors & layers.producers.keys())
    if tensor not in names:
        named = get_close_matches(tensor, names, n=3, cutoff=0.5) or [candidate.tensor for candidate in candidates]
        raise UsageError(
            f"{where}: --tensor is {tensor!r}; no tensor of that name is computed from the image",
            f"{inspect} --tensor {quoted(named[0]) if named else 'NAME'}",
        )
    if layers.types.get(tensor, TensorProto.FLOAT) not in FLOATS:
        raise UsageError(
            f"{where}: --tensor is {tensor!r} of type "
            f"{TensorProto.DataType.Name(layers.types[tensor])}; a representation is a float tensor",
            inspect,
        )


def _head_input(layers: Layers, where: str, role: Role) -> Choice:
    head, assumed = role.head, role.is_class is None
    assert head is not None
    doubt = f"; assumed, since {role.output!r} could be class scores or an embedding"
    why = f"input of the last linear layer ({head.op}){doubt if assumed else ' of a classifier'}: {role.why}"
    representation = _represent(layers, where, head.tensor, "head_input", why, head, assumed=assumed)
    is_number = layers.types.get(role.output, TensorProto.STRING) != TensorProto.STRING
    # a ZipMap's maps have no type of a tensor
    return Choice(representation, head, role.output if role.is_class and is_number else None)


def _represent(
    layers: Layers, where: str, tensor: str, rule: str, why: str, head: Head | None = None, *, assumed: bool = False
) -> Representation:
    shape = layers.shapes.get(tensor)
    pooling = choose_pool(layers, tensor, shape, head.crossed if head else frozenset(), where=where)
    return Representation(
        tensor=tensor,
        rule=rule,
        pool=pooling.pool,
        feature_axis=pooling.feature_axis,
        ends_in=ends_in(layers, tensor),
        why=f"{why}; {pooling.why}" if pooling.why else why,
        shape=shape,
        tensor_assumed=assumed,
        pool_assumed=pooling.assumed,
        dequantize=head.dequantize if head else (),
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


PER_IMAGE = "one representation for each image is needed"
DETECTOR_NAME = re.compile(
    r"(^|[^a-z])(box(es)?|bbox(es)?|dets?|detections?|num_det\w*|anchors?|masks?|keypoints?)([^a-z]|$)", re.I
)
DETECTOR_OPS = op_set("NonMaxSuppression RoiAlign MaxRoiPool EfficientNMS_TRT BatchedNMS_TRT")
UPSAMPLING_OPS = op_set("Resize Upsample ConvTranspose DepthToSpace")


def refuse_dense(operators: AbstractSet[str], layers: Layers, outputs: Names, where: str) -> None:
    """Refuse object detectors and models that predict per pixel.

    operators: as `check_supported` gives them.

    Raises:
        CannotAssessError: what shows it, and `--tensor` as the way to measure its backbone.
    """
    tensor = quoted(_deepest_map(layers) or "NAME")
    hint = f"to look at its vision encoder: robustcheck inspect {quoted(where)} --tensor {tensor}"
    for name in outputs:
        if DETECTOR_NAME.search(name):
            raise CannotAssessError(f"output {name!r} is an object detector's; {PER_IMAGE}", hint)
    for op in sorted(DETECTOR_OPS & operators):
        raise CannotAssessError(f"graph has {op}, as object detectors have; {PER_IMAGE}", hint)
    upsampling = _upsamples(layers) if UPSAMPLING_OPS & operators else ""
    for name in outputs:
        rank = len(layers.shapes.get(name, ()))
        if upsampling and rank > 2 and not EMBEDDING_NAME.search(name):
            raise CannotAssessError(
                f"output {name!r} has {rank} axes after {upsampling}, as detectors and segmenters have; {PER_IMAGE}",
                hint,
            )


def _upsamples(layers: Layers) -> str:
    """Return the op that enlarges a linear layer's output. "" where none does."""
    deep: set[str] = set()
    last = ""
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        if op in LINEAR or not deep.isdisjoint(names):
            deep.add(tensor)
            if op in UPSAMPLING_OPS and names[0] in deep:
                last = op
    return last


def _deepest_map(layers: Layers) -> str:
    """Return the last of the widest feature maps. Of a detector this is mostly the end of its backbone."""
    maps = [
        (shape[1], name)
        for name in layers.data
        if len(shape := layers.shapes.get(name, ())) == 4 and shape[1] is not None and layers.ops[name] in LINEAR
    ]
    widest = max((channels for channels, _ in maps), default=0)
    return next((name for channels, name in reversed(maps) if channels == widest), "")
