"""Choose the tensor that is the representation, by rule. The reason and the alternatives come with it. Pure.

What each output of the graph holds, class scores or an embedding, is decided here, too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.thresholds.frozen import End

from .contract import Contract
from .ends import AFTER_LINEAR, SECOND, choose_pool, embedding_under, ends_in, is_vector, user_pool
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
    """Return the role of an output. The layers that end it decide, then its name, then its last linear layer."""
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
        return Role(output, None, f"a factor follows its last linear layer ({head.op})", head)
    if has_class_width(head) and head.writes_bias:
        return Role(output, True, f"its last linear layer has a bias and {head.classes} outputs", head)
    if embedding_under(layers, head.tensor) is not None:
        return Role(output, None, f"what its last linear layer ({head.op}) reads could be an embedding itself", head)
    if UNIT in head.crossed and last == AFTER_LINEAR and not has_class_width(head):
        return Role(output, False, f"an L2 norm follows its last linear layer ({head.op})", head)
    if head.classes and not has_class_width(head) and not head.has_bias:
        return Role(output, False, f"a projection without bias to {head.classes} features ends it", head)
    if not has_class_width(head) and ACTIVATED & head.crossed:
        return Role(output, False, f"an activation follows its last linear layer ({head.op})", None)
    last_layer = f"{head.classes or 'an unknown number of'} outputs and {'a' if head.has_bias else 'no'} bias"
    return Role(output, None, f"its last linear layer has {last_layer}", head)


def heads_joined(layers: Layers, output: str) -> str:
    """Return the inputs of linear layers that are joined. "" where a join is not what ends `output`."""
    end = find_head(layers, output)
    heads = [find_head(layers, branch) for branch in end.branches] if isinstance(end, Join) else []
    read = sorted({head.tensor for head in heads if isinstance(head, Head)})
    return f": {len(heads)} heads are joined, which read {', '.join(read)}" if read else ""


def like_scores(layers: Layers, tensor: str) -> str:
    """Return why `tensor` holds class scores, by its layers. Its name does not count; "" where it does not.

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
        return "a factor follows its last linear layer, as behind a zero-shot head"
    return ""


def has_class_width(head: Head) -> bool:
    """Whether a head has the width of a label set. That is a well-known count, or not a multiple of 8."""
    return head.classes is not None and (head.classes in CLASS_COUNTS or head.classes % 8 != 0)


def is_untrained_pooler(layers: Layers, output: str) -> bool:
    """Whether an output is the ViT pooler of transformers. Most checkpoints hold no weights for that layer."""
    vector = EMBEDDING_NAME.search(output) is not None and len(layers.shapes.get(output, ())) == 2
    return vector and ends_in(layers, output) == End("activation", "Tanh")


SHOWN = 12  # names that a message lists
# what a contract may call a tensor next to its representation; by any other rule there is that one
BESIDE = frozenset(("pooled", "logits"))
FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16))


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
    ends_in: End
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
        """Whether something was assumed. No PASS can rest on it."""
        return self.tensor_assumed or self.pool_assumed


@dataclass(frozen=True)
class Choice:
    """The representation of a graph, and the alternatives."""

    representation: Representation
    head: Head | None
    class_output: str | None
    candidates: tuple[Candidate, ...]


def choose(
    layers: Layers,
    outputs: tuple[str, ...],
    where: str,
    *,
    contract: Contract | None,
    tensor: str | None,
    pool: str | None,
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
    candidates = find_candidates(layers, outputs)
    choice: Choice | None = None
    asks = False
    try:
        choice = _by_rule(layers, outputs, where, contract, candidates)
    except CannotAssessError:
        if tensor is None:
            raise
    except UsageError:
        asks = True
        if tensor is None:
            raise
    if choice is None or tensor not in (None, choice.representation.tensor):
        assert tensor is not None
        asks = asks or (contract is None and choice is not None and choice.representation.tensor_assumed)
        choice = _users_choice(layers, where, tensor, candidates, choice, contract, asks=asks)
    elif tensor is not None:
        chosen = choice.representation
        scores = chosen.tensor_assumed and bool(like_scores(layers, tensor))
        confirmed = "" if scores else "; confirmed by --tensor"  # nobody makes an embedding of what looks like scores
        chosen = replace(chosen, tensor_assumed=scores, why=f"{chosen.why}{confirmed}")
        choice = replace(choice, representation=chosen)
    if pool is not None:
        chosen = choice.representation
        wanted = user_pool(pool, chosen.shape, chosen.tensor, where)
        rule = chosen.rule if wanted == chosen.pool else "user"
        chosen = replace(
            chosen, pool=wanted, pool_assumed=False, rule=rule, why=f"{chosen.why}; {wanted} set by --pool"
        )
        choice = replace(choice, representation=chosen)
    return choice


def find_candidates(layers: Layers, outputs: tuple[str, ...]) -> tuple[Candidate, ...]:
    """Return all candidates for the representation.

    These are every output, the input of the last linear layer before it, and the branches that a node joins.
    """
    candidates: dict[str, Candidate] = {}

    def add(tensor: str, rule: str, why: str) -> None:
        node = layers.producers.get(tensor)
        if layers.types.get(tensor, TensorProto.FLOAT) not in FLOATS:
            return  # a label: `--tensor` refuses it
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
            for branch in end.branches:
                inner = find_head(layers, branch)
                if isinstance(inner, Head):
                    add(inner.tensor, "head_input", f"input of {inner.op} in a branch that {end.op} joins")
                else:
                    add(branch, "user", f"a branch that {end.op} joins")
    return tuple(candidates.values())


def _by_rule(
    layers: Layers,
    outputs: tuple[str, ...],
    where: str,
    contract: Contract | None,
    candidates: tuple[Candidate, ...],
) -> Choice:
    if contract is not None:
        return _by_contract(layers, outputs, where, contract, candidates)
    roles = [role_of(layers, name) for name in outputs if name in layers.image_tensors]
    if not roles:
        raise CannotAssessError(
            f"{where}: outputs {_listed(outputs) or '(none)'} do not depend on the image; a representation must do so",
            "export the model again",
        )
    classes = [role for role in roles if role.is_class]
    for role in classes:
        if role.head is None:
            raise _undecided(where, f"output {role.output!r} holds class scores ({role.why}), but "
                        f"no single linear layer ends it{heads_joined(layers, role.output)}", candidates)  # fmt: skip
    if classes:
        heads = {role.head.tensor for role in classes if role.head}
        if len(heads) > 1:
            raise _undecided(
                where, f"outputs {', '.join(r.output for r in classes)} have heads of their own", candidates
            )
        classes.sort(key=lambda role: layers.types.get(role.output) not in FLOATS)  # scores before their labels
        return _head_input(layers, where, classes[0], candidates)
    roles = [role for role in roles if not is_untrained_pooler(layers, role.output)] or roles
    role = roles[0]
    if len(roles) > 1:
        vectors = [r for r in roles if EMBEDDING_NAME.search(r.output) and is_vector(layers.shapes.get(r.output, ()))]
        rest = [r for r in roles if r not in vectors]
        if len(vectors) != 1 or any(len(layers.shapes.get(r.output, (0, 0))) < 3 for r in rest):
            raise _undecided(
                where, f"outputs {_listed([r.output for r in roles])} could each be the representation", candidates
            )
        role = vectors[0]
    if role.is_class is None and role.head is not None:
        if not {"Gather", "Slice", "Transpose"} & role.head.crossed:
            return _head_input(layers, where, role, candidates)
        # that layer works on tokens, of which one is taken later: its input is not a vector for each image
        why = f"output; assumed, since it could be class scores or an embedding: {role.why}"
        representation = replace(_represent(layers, where, role.output, "encoder_output", why), tensor_assumed=True)
        return Choice(representation, None, None, candidates)
    why = f"output of an image encoder{', assumed' if role.doubted else ''}: {role.why}"
    representation = replace(_represent(layers, where, role.output, "encoder_output", why), tensor_assumed=role.doubted)
    return Choice(representation, None, None, candidates)


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
    scores = "" if entry.rule == "logits" else like_scores(layers, "representation")
    if scores:
        why = f"{why}; assumed, since {scores}"
    representation = replace(_represent(layers, where, "representation", entry.rule, why), tensor_assumed=bool(scores))
    return Choice(representation, head if isinstance(head, Head) else None, class_output, candidates)


def _users_choice(
    layers: Layers,
    where: str,
    tensor: str,
    candidates: tuple[Candidate, ...],
    choice: Choice | None,
    contract: Contract | None,
    *,
    asks: bool,
) -> Choice:
    """Return the choice that `--tensor` names. It is not the rule's `choice`.

    asks: the rule has no sure choice and listed its candidates: one of them is as good as a choice of its own.
    """
    head, class_output = (choice.head, choice.class_output) if choice else (None, None)
    rule, why = "logits" if tensor == class_output else "user", "set by --tensor"
    if contract is not None and tensor in contract.tensors and contract.tensors[tensor].rule in BESIDE:
        rule = str(contract.tensors[tensor].rule)
    listed = next((candidate for candidate in candidates if candidate.tensor == tensor), None)
    if asks and listed is not None:
        rule, why = listed.rule, f"set by --tensor, out of what the graph offers: {listed.why}"
    elif choice is not None:
        why = f"set by --tensor; the rule reads {choice.representation.tensor}"
    names = sorted(layers.image_tensors & layers.producers.keys())
    if tensor not in names:
        close = get_close_matches(tensor, names, n=3, cutoff=0.5)
        named = close or [candidate.tensor for candidate in candidates]
        raise UsageError(
            f"{where}: --tensor is {tensor!r}; no tensor of that name is computed from the image",
            f"robustcheck inspect {shlex.quote(where)} --tensor {shlex.quote(named[0]) if named else 'NAME'}",
        )
    if layers.types.get(tensor, TensorProto.FLOAT) not in FLOATS:
        raise UsageError(
            f"{where}: --tensor is {tensor!r} of type "
            f"{TensorProto.DataType.Name(layers.types[tensor])}; a representation is a float tensor",
            f"robustcheck inspect {shlex.quote(where)}",
        )
    return Choice(_represent(layers, where, tensor, rule, why), head, class_output, candidates)


def _head_input(layers: Layers, where: str, role: Role, candidates: tuple[Candidate, ...]) -> Choice:
    head = role.head
    assert head is not None
    why = f"input of the last linear layer ({head.op}) of a classifier: {role.why}"
    if role.is_class is None:
        why = (
            f"input of the last linear layer ({head.op}); assumed, since {role.output!r} could be class "
            f"scores or an embedding: {role.why}"
        )
    representation = _represent(layers, where, head.tensor, "head_input", why, head)
    is_number = layers.types.get(role.output, TensorProto.STRING) != TensorProto.STRING
    class_output = role.output if role.is_class and is_number else None  # a ZipMap's maps have no type of a tensor
    return Choice(replace(representation, tensor_assumed=role.is_class is None), head, class_output, candidates)


def _represent(
    layers: Layers, where: str, tensor: str, rule: str, why: str, head: Head | None = None
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
        pool_assumed=pooling.assumed,
        dequantize=head.dequantize if head else (),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _undecided(where: str, what: str, candidates: tuple[Candidate, ...]) -> UsageError:
    listed = _listed([f"{c.tensor} ({c.why})" for c in candidates])
    likely = sorted(candidates, key=lambda candidate: candidate.rule != "head_input")
    return UsageError(
        f"{where}: representation is not clear; {what}; candidates: {listed}",
        f"robustcheck {shlex.quote(where)} --tensor {shlex.quote(likely[0].tensor) if likely else 'NAME'}",
    )
