"""Which tensor is the representation: the rule, pure, with its reason and the alternatives."""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass, replace

import onnx

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError

from .contract import Contract
from .ends import ends_in
from .layers import CLASS_END, GATE, Fork, Head, Layers, find_head
from .pooling import choose_pool, user_pool

# widths of well-known label sets: binary, CIFAR, Food-101, Tiny ImageNet and ImageNet-R/A, Places365,
# ImageNet-1k (with background), ImageNet-12k, -21k in its usual cuts
CLASS_COUNTS = frozenset((2, 10, 100, 101, 200, 365, 1000, 1001, 10450, 11221, 11821, 21841, 21843))
CLASS_NAME = re.compile(r"logit|prob|scores?\b|(^|[^a-z])class(es)?([^a-z]|$)|classif|softmax|predict|label", re.I)
ACTIVATED = frozenset(("Relu", "Clip", GATE))  # class scores go through none of these
EMBEDDING_NAME = re.compile(r"embed|feature|represent|pooler|hidden_state|descriptor|(^|[^a-z])emb([^a-z]|$)", re.I)


@dataclass(frozen=True)
class Candidate:
    """A tensor that could be the representation."""

    tensor: str
    rule: str
    why: str
    op: str
    """what produces it"""


@dataclass(frozen=True)
class Representation:
    """The tensor that is measured, and why this one."""

    tensor: str
    rule: str
    """encoder_output, head_input, pooled, logits or user"""
    pool: str
    """none, spatial_mean, token_cls or token_mean"""
    feature_axis: int
    ends_in: str
    why: str
    shape: tuple[int | None, ...] | None
    """before pooling; None where it can't be inferred"""
    tensor_assumed: bool = False
    """True: the graph does not settle whether this tensor is meant, nor did the user"""
    pool_assumed: bool = False
    """True: the graph does not settle how it is pooled, nor did the user"""
    dequantize: tuple[str, ...] = ()
    """scale and zero point of a tensor that exists only quantised"""

    @property
    def assumed(self) -> bool:
        """Whether something was assumed: no PASS can rest on it."""
        return self.tensor_assumed or self.pool_assumed


@dataclass(frozen=True)
class Choice:
    """What the rule found in a graph."""

    representation: Representation
    head: Head | None
    class_output: str | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class _Reading:
    """One output, read: class scores (True), an embedding (False), or nothing tells (None)."""

    output: str
    is_class: bool | None
    why: str
    head: Head | None
    doubted: bool = False
    """its name says embedding, its last layer class scores"""


def choose(
    layers: Layers,
    outputs: tuple[str, ...],
    where: str,
    *,
    contract: Contract | None,
    tensor: str | None,
    pool: str | None,
) -> Choice:
    """Choose the representation: the contract's, else a classifier's head input, else an encoder's output.

    `outputs` are the graph's output names, `where` names the file in messages; `tensor` and `pool` are the
    user's. With a tensor that the rule would not choose, or another pool than the rule's, the rule is "user".

    Raises:
        UsageError: the walk back forks, several outputs could be meant, there is no such tensor or pool.
        CannotAssessError: no output depends on the image; an output named by the contract is missing.
    """
    candidates = find_candidates(layers, outputs)
    choice: Choice | None = None
    try:
        choice = _by_rule(layers, outputs, where, contract, candidates)
    except (UsageError, CannotAssessError):
        if tensor is None:
            raise
    if choice is None or tensor not in (None, choice.representation.tensor):
        assert tensor is not None
        rules: dict[str, str] = {}
        if contract is not None:
            rules |= {name: entry.rule for name, entry in contract.tensors.items()}
        head, class_output = (choice.head, choice.class_output) if choice else (None, None)
        rule = rules.get(tensor, "logits" if tensor == class_output else "user")
        choice = Choice(_by_user(layers, where, tensor, rule, candidates), head, class_output, candidates)
    elif tensor is not None:
        found = choice.representation
        confirmed = replace(found, tensor_assumed=False, why=f"{found.why}; confirmed by --tensor")
        choice = replace(choice, representation=confirmed)
    if pool is not None:
        found = choice.representation
        wanted = user_pool(pool, found.shape, found.tensor)
        rule = found.rule if wanted == found.pool else "user"
        found = replace(found, pool=wanted, pool_assumed=False, rule=rule, why=f"{found.why}; {wanted} set by --pool")
        return replace(choice, representation=found)
    return choice


def find_candidates(layers: Layers, outputs: tuple[str, ...]) -> tuple[Candidate, ...]:
    """Every output, the input of the last linear layer before it, and the branches of a fork."""
    found: dict[str, Candidate] = {}

    def add(tensor: str, rule: str, why: str) -> None:
        node = layers.producers.get(tensor)
        found.setdefault(tensor, Candidate(tensor, rule, why, node.op_type if node is not None else "input"))

    for output in outputs:
        if output not in layers.image_tensors:
            continue
        reading = _read(layers, output)
        end = find_head(layers, output)
        if reading.is_class:
            add(output, "logits", f"output, class scores: {reading.why}")
        else:
            add(output, "encoder_output", "output")
        if isinstance(end, Head):
            rule = "pooled" if reading.is_class is False else "head_input"
            add(end.tensor, rule, f"input of the last linear layer ({end.op}) before {output}")
        elif isinstance(end, Fork):
            for branch in end.branches:
                inner = find_head(layers, branch)
                if isinstance(inner, Head):
                    add(inner.tensor, "head_input", f"input of {inner.op} in a branch that {end.op} joins")
                else:
                    add(branch, "user", f"a branch that {end.op} joins")
    return tuple(found.values())


def _read(layers: Layers, output: str) -> _Reading:
    end, last = find_head(layers, output), ends_in(layers, output)
    head = end if isinstance(end, Head) else None
    score = CLASS_END & set(head.crossed) if head else CLASS_END & {last.removeprefix("activation:")} - {"Sigmoid"}
    if score:
        return _Reading(output, True, f"it ends in {min(score)}", head)
    class_like, embedding_like = bool(CLASS_NAME.search(output)), bool(EMBEDDING_NAME.search(output))
    if class_like != embedding_like:
        scores = "" if class_like else _like_scores(layers, output)
        why = f"its name is {output!r}"
        return _Reading(output, class_like, f"{why}, but {scores}" if scores else why, head, bool(scores))
    if isinstance(end, Fork):
        heads = [find_head(layers, branch) for branch in end.branches]
        if all(isinstance(h, Head) and "Conv" not in h.op and _classes(h) for h in heads):
            return _Reading(output, True, f"{end.op} joins {len(heads)} linear layers with a class count's width", None)
    if head is None:
        return _Reading(output, False, "no linear layer ends it", None)
    if _classes(head) and head.has_bias:
        return _Reading(output, True, f"its last linear layer has a bias and {head.classes} outputs", head)
    if head.classes and not _classes(head) and not head.has_bias:
        return _Reading(output, False, f"a projection without bias to {head.classes} features ends it", head)
    if not _classes(head) and ACTIVATED & set(head.crossed):
        return _Reading(output, False, f"an activation stands behind its last linear layer ({head.op})", None)
    kind = f"{head.classes or 'an unknown number of'} outputs and {'a' if head.has_bias else 'no'} bias"
    return _Reading(output, None, f"its last linear layer has {kind}", head)


def _like_scores(layers: Layers, tensor: str) -> str:
    """Why the layers before `tensor` make class scores, whatever it is called; "" where they do not.

    Logits on images of one category have few extreme classes in every image: only the graph tells them apart.
    """
    head = find_head(layers, tensor)
    if not isinstance(head, Head) or ACTIVATED & set(head.crossed):
        return ""
    if score := CLASS_END & set(head.crossed):
        return f"it ends in {min(score)}, as class scores do"
    if _classes(head) and head.has_bias:
        return f"its last linear layer has a bias and {head.classes} outputs, as class scores have"
    return ""


def _classes(head: Head) -> bool:
    """A width that label sets have and embeddings hardly: a well-known count, or no multiple of 8."""
    return head.classes is not None and (head.classes in CLASS_COUNTS or head.classes % 8 != 0)


def _by_rule(
    layers: Layers,
    outputs: tuple[str, ...],
    where: str,
    contract: Contract | None,
    candidates: tuple[Candidate, ...],
) -> Choice:
    if contract is not None:
        return _by_contract(layers, outputs, where, contract, candidates)
    readings = [_read(layers, name) for name in outputs if name in layers.image_tensors]
    if not readings:
        raise CannotAssessError(
            f"{where}: outputs {', '.join(outputs)} do not depend on the image; a representation must",
            "export the model again",
        )
    classes = [reading for reading in readings if reading.is_class]
    for reading in classes:
        if reading.head is None:
            raise _fork(where, f"output {reading.output!r} holds class scores ({reading.why}), but "
                        f"no single linear layer ends it", candidates)  # fmt: skip
    if classes:
        heads = {reading.head.tensor for reading in classes if reading.head}
        if len(heads) > 1:
            raise _fork(where, f"outputs {', '.join(r.output for r in classes)} have heads of their own", candidates)
        return _head_input(layers, classes[0], candidates)
    reading = readings[0]
    if len(readings) > 1:
        vectors = [
            r
            for r in readings
            if EMBEDDING_NAME.search(r.output)
            and len(layers.shapes.get(r.output, ())) == 2
            # transformers' pooler of ViT: a layer that most checkpoints hold no weights for
            and ends_in(layers, r.output) != "activation:Tanh"
        ]
        rest = [r for r in readings if r not in vectors]
        if len(vectors) != 1 or any(len(layers.shapes.get(r.output, (0, 0))) < 3 for r in rest):
            raise _fork(where, f"outputs {', '.join(r.output for r in readings)} could each be meant", candidates)
        reading = vectors[0]
    if reading.is_class is None and reading.head is not None:
        if not {"Gather", "Slice", "Transpose"} & set(reading.head.crossed):
            return _head_input(layers, reading, candidates)
        # that layer works on tokens, of which one is taken later: its input is no vector for each image
        why = f"output; assumed, since it could be class scores or an embedding: {reading.why}"
        found = replace(_represent(layers, reading.output, "encoder_output", why), tensor_assumed=True)
        return Choice(found, None, None, candidates)
    why = f"output of an image encoder{', assumed' if reading.doubted else ''}: {reading.why}"
    found = replace(_represent(layers, reading.output, "encoder_output", why), tensor_assumed=reading.doubted)
    return Choice(found, None, None, candidates)


def _by_contract(
    layers: Layers,
    outputs: tuple[str, ...],
    where: str,
    contract: Contract,
    candidates: tuple[Candidate, ...],
) -> Choice:
    for name in contract.tensors:
        if name not in outputs:
            raise CannotAssessError(
                f"{where}: contract names output {name!r}; the graph has {', '.join(outputs)}",
                "export the model again with `robustcheck export`",
            )
    entry = contract.tensors["representation"]
    logits = [name for name, tensor in contract.tensors.items() if tensor.rule == "logits"]
    class_output = next((name for name in logits if name != "representation"), None)
    head = find_head(layers, class_output) if class_output else None
    why = f"named by the file's contract: {entry.meaning}"
    scores = "" if entry.rule == "logits" else _like_scores(layers, "representation")
    if scores:
        why = f"{why}; assumed, since {scores}"
    found = replace(_represent(layers, "representation", entry.rule, why), tensor_assumed=bool(scores))
    return Choice(found, head if isinstance(head, Head) else None, class_output, candidates)


def _by_user(layers: Layers, where: str, tensor: str, rule: str, candidates: tuple[Candidate, ...]) -> Representation:
    names = sorted(layers.image_tensors & layers.producers.keys())
    if tensor not in names:
        close = difflib.get_close_matches(tensor, names, n=3, cutoff=0.5)
        listed = ", ".join(close or [candidate.tensor for candidate in candidates])
        raise UsageError(
            f"{where}: --tensor is {tensor!r}; no tensor of that name is computed from the image",
            f"--tensor with one of: {listed}",
        )
    if layers.types.get(tensor, onnx.TensorProto.FLOAT) not in _FLOATS:
        raise UsageError(
            f"{where}: --tensor is {tensor!r} of type "
            f"{onnx.TensorProto.DataType.Name(layers.types[tensor])}; a representation is a float tensor",
            f"robustcheck inspect {where}",
        )
    return _represent(layers, tensor, rule, "set by --tensor")


_FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)


def _head_input(layers: Layers, reading: _Reading, candidates: tuple[Candidate, ...]) -> Choice:
    head = reading.head
    assert head is not None
    why = f"input of the last linear layer ({head.op}) of a classifier: {reading.why}"
    if reading.is_class is None:
        why = (
            f"input of the last linear layer ({head.op}); assumed, since {reading.output!r} could be class "
            f"scores or an embedding: {reading.why}"
        )
    found = _represent(layers, head.tensor, "head_input", why, head)
    class_output = reading.output if reading.is_class else None
    return Choice(replace(found, tensor_assumed=reading.is_class is None), head, class_output, candidates)


def _represent(layers: Layers, tensor: str, rule: str, why: str, head: Head | None = None) -> Representation:
    shape = layers.shapes.get(tensor)
    pooling = choose_pool(layers, tensor, shape, head.crossed if head else ())
    return Representation(
        tensor=tensor,
        rule=rule,
        pool=pooling.pool,
        feature_axis=pooling.feature_axis,
        ends_in=ends_in(layers, tensor),
        why=f"{why}; {pooling.why}" if pooling.why else why,
        shape=shape,
        pool_assumed=pooling.assumed,
        dequantize=head.dequantize if head else (),
    )


def _fork(where: str, what: str, candidates: tuple[Candidate, ...]) -> UsageError:
    listed = ", ".join(f"{c.tensor} ({c.why})" for c in candidates)
    likely = sorted(candidates, key=lambda candidate: candidate.rule != "head_input")
    return UsageError(
        f"{where}: representation can't be told; {what}; candidates: {listed}",
        f"robustcheck {shlex.quote(where)} --tensor {shlex.quote(likely[0].tensor) if likely else 'NAME'}",
    )
