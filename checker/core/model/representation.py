"""Choose the tensor that is the representation, with the reason and the alternatives."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from onnx import TensorProto

from ....thresholds.ends import End
from ...errors import CannotAssessError, UsageError
from ...text import first_of, frozen, quoted
from .contract import Contract
from .ends import ends_in
from .last_layer import Head, Join, find_head
from .layers import FLOATS, Layers, Shape
from .nodes import Names
from .pooling import choose_pool, is_vector, user_pool
from .roles import EMBEDDING_NAME, Ending, Role, has_class_width, joined_ends, like_scores, role_of

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
        """Return whether something was assumed, on which no PASS can rest."""
        return self.tensor_assumed or self.pool_assumed


class Choice(NamedTuple):
    """The representation of a graph, and its classifier's head and output."""

    representation: Representation
    head: Head | None
    class_output: str | None


def choose(
    layers: Layers, outputs: Names, where: str, *, contract: Contract | None, tensor: str | None, pool: str | None
) -> Choice:
    """Choose the representation of a graph: the contract's, else a classifier's head input, else an encoder's output.

    `outputs` are the graph's output names, `where` names the file in messages; `tensor` and `pool` are the
    user's. Where the rule has no sure choice, one of its candidates is as good as a choice of its own. With any
    other tensor, or another pool than the rule's, the rule is "user", and `why` names the rule's tensor.

    Raises:
        UsageError: a node joins several branches, several outputs could be meant, there is no such tensor or pool.
        CannotAssessError: no output depends on the image; an output named by the contract is missing.
    """
    outputs = tuple(dict.fromkeys(outputs))
    choice: Choice | None = None
    is_undecided = False
    try:
        if contract is None:
            choice = _by_rule(layers, outputs, where)
        else:
            choice = _by_contract(layers, outputs, where, contract)
    except (CannotAssessError, UsageError) as fault:
        if tensor is None:
            raise
        is_undecided = isinstance(fault, UsageError)
    if tensor is not None:
        choice = _by_user(layers, outputs, where, tensor, contract, choice, is_undecided=is_undecided)
    assert choice is not None
    return choice if pool is None else _with_pool(choice, pool, where)


def _by_user(
    layers: Layers,
    outputs: Names,
    where: str,
    tensor: str,
    contract: Contract | None,
    choice: Choice | None,
    *,
    is_undecided: bool,
) -> Choice:
    """Choose a user's tensor. `choice` is the rule's, which may be undecided between several."""
    if choice is not None and tensor == choice.representation.tensor:
        confirmed = choice.representation
        is_assumed = confirmed.tensor_assumed and bool(like_scores(layers, tensor))
        if not is_assumed:  # nobody makes an embedding of what is like scores
            confirmed = replace(confirmed, why=f"{confirmed.why}; confirmed by --tensor")
        return choice._replace(representation=replace(confirmed, tensor_assumed=is_assumed))
    candidates = find_candidates(layers, outputs)
    _refuse_tensor(layers, where, tensor, candidates)
    why = "set by --tensor"
    rule = "user"
    if choice is not None and tensor == choice.class_output:
        rule = "logits"
    if contract is not None and tensor in contract.tensors and contract.tensors[tensor].rule in OTHER_RULES:
        rule = contract.tensors[tensor].rule
    # the rule has no sure choice and listed its candidates: one of them is as good as a choice of its own
    if contract is None and choice is not None and choice.representation.tensor_assumed:
        is_undecided = True
    listed = [candidate for candidate in candidates if candidate.tensor == tensor]
    if is_undecided and listed:
        rule = listed[0].rule
        why = f"{why}, out of what the graph offers: {listed[0].why}"
    elif choice is not None:
        why = f"{why}; the rule reads {choice.representation.tensor}"
    representation = _represent(layers, where, tensor, rule, why)
    return Choice(representation, None, None) if choice is None else choice._replace(representation=representation)


def _with_pool(choice: Choice, pool: str, where: str) -> Choice:
    """Return a choice with a user's pool."""
    chosen = choice.representation
    wanted = user_pool(pool, chosen.shape, chosen.tensor, where)
    rule = chosen.rule if wanted == chosen.pool else "user"
    why = f"{chosen.why}; {wanted} set by --pool"
    return choice._replace(representation=replace(chosen, pool=wanted, pool_assumed=False, rule=rule, why=why))


def find_candidates(layers: Layers, outputs: Names) -> tuple[Candidate, ...]:
    """Return all candidates: every output, the input of its last linear layer, and the branches that a node joins."""
    candidates: dict[str, Candidate] = {}

    def add(tensor: str, rule: str, why: str) -> None:
        node = layers.producers.get(tensor)
        if layers.types.get(tensor, TensorProto.FLOAT) in FLOATS:  # no label: `--tensor` refuses it
            op = "input" if node is None else node.op_type
            candidates.setdefault(tensor, Candidate(tensor, rule, why, op))

    for output in outputs:
        if output not in layers.image_tensors:
            continue
        role = role_of(layers, output)
        end = find_head(layers, output)
        open_width = role.is_class is None and role.head is not None and has_class_width(role.head)
        if role.is_class or open_width or like_scores(layers, output):
            perhaps = "" if role.is_class else "perhaps "
            add(output, "logits", f"output, {perhaps}class scores: {role.why}")
        else:
            add(output, "encoder_output", "output")
        if isinstance(end, Head):
            rule = "pooled" if role.is_class is False else "head_input"
            add(end.tensor, rule, f"input of the last linear layer ({end.op}) before {output}")
        elif isinstance(end, Join):
            for branch, inner in zip(end.branches, joined_ends(layers, end), strict=True):
                if isinstance(inner, Head):
                    add(inner.tensor, "head_input", f"input of {inner.op} in a branch that {end.op} joins")
                else:
                    add(branch, "user", f"a branch that {end.op} joins")
    return tuple(candidates.values())


def _by_rule(layers: Layers, outputs: Names, where: str) -> Choice:
    roles = [role_of(layers, name) for name in outputs if name in layers.image_tensors]
    if not roles:
        raise CannotAssessError(
            f"{where}: outputs {first_of(outputs, SHOWN) or '(none)'} do not depend on the image; a representation "
            "must do so",
            "export the model again",
        )

    def undecided(reason: str) -> UsageError:
        candidates = find_candidates(layers, outputs)
        texts = [f"{candidate.tensor} ({candidate.why})" for candidate in candidates]
        likely = [candidate.tensor for candidate in candidates if candidate.rule == "head_input"]
        likely += [candidate.tensor for candidate in candidates]
        return UsageError(
            f"{where}: representation is not clear; {reason}; candidates: {first_of(texts, SHOWN)}",
            f"robustcheck {quoted(where)} --tensor {quoted([*likely, 'NAME'][0])}",
        )

    classes = [role for role in roles if role.is_class]
    if unclear := _unclear_head(layers, classes):
        raise undecided(unclear)
    if classes:
        classes.sort(key=lambda role: layers.types.get(role.output) not in FLOATS)  # scores before their labels
        return _head_input(layers, where, classes[0])
    roles = _encoder_outputs(layers, roles)
    if len(roles) > 1:
        names = first_of([role.output for role in roles], SHOWN)
        raise undecided(f"outputs {names} could each be the representation")
    role = roles[0]
    doubted = bool(like_scores(layers, role.output))  # its name says embedding, but its last layer says class scores
    assumed = ", assumed" if doubted else ""
    why = f"output of an image encoder{assumed}: {role.why}"
    if role.is_class is None and role.head is not None:
        if not {"Gather", "Slice", "Transpose"} & role.head.tail.ops:
            return _head_input(layers, where, role)
        # that layer works on tokens, of which one is taken later: its input is not a vector for each image
        doubted = True
        why = f"output; assumed, since it could be class scores or an embedding: {role.why}"
    representation = _represent(layers, where, role.output, "encoder_output", why, assumed=doubted)
    return Choice(representation, None, None)


def _unclear_head(layers: Layers, classes: Sequence[Role]) -> str:
    """Return why no single linear layer makes the class scores: "" where one does, or there are none."""
    for role in classes:
        if role.head is None:
            heads = joined_ends(layers, find_head(layers, role.output))
            read = sorted({head.tensor for head in heads if isinstance(head, Head)})
            joined = f": {len(heads)} heads are joined, which read {', '.join(read)}" if read else ""
            return f"output {role.output!r} holds class scores ({role.why}), but no single linear layer ends it{joined}"
    if len({role.head.tensor for role in classes if role.head}) > 1:
        return f"outputs {', '.join(role.output for role in classes)} have heads of their own"
    return ""


def _encoder_outputs(layers: Layers, roles: list[Role]) -> list[Role]:
    """Return the outputs that could be the representation: next to maps, a vector that is named like one."""
    roles = [role for role in roles if not _is_pooler(layers, role.output)] or roles
    vectors = []
    for role in roles:
        shape = layers.shapes.get(role.output, ())
        if EMBEDDING_NAME.search(role.output) and is_vector(shape):
            vectors.append(role)
        elif len(shape) < 3:
            return roles
    return vectors if len(vectors) == 1 else roles


def _is_pooler(layers: Layers, output: str) -> bool:
    """Return whether an output is the ViT pooler of transformers, a layer without weights in most checkpoints."""
    if len(layers.shapes.get(output, ())) != 2 or not EMBEDDING_NAME.search(output):
        return False
    return ends_in(layers, output) == End("activation", "Tanh")


def _by_contract(layers: Layers, outputs: Names, where: str, contract: Contract) -> Choice:
    for name in contract.tensors:
        if name not in outputs:
            raise CannotAssessError(
                f"{where}: contract names output {name!r}; the graph has {', '.join(outputs)}",
                "export the model again with `robustcheck export`",
            )
    entry = contract.tensors["representation"]
    class_output = None
    head: Ending = None
    for name, tensor in contract.tensors.items():
        if class_output is None and tensor.rule == "logits" and name != "representation":
            class_output = name
            head = find_head(layers, name)
    why = f"named by the file's contract: {entry.meaning}"
    scores = "" if entry.rule == "logits" else like_scores(layers, "representation")
    if scores:
        why = f"{why}; assumed, since {scores}"
    chosen = _represent(layers, where, "representation", entry.rule, why, assumed=bool(scores))
    return Choice(chosen, head if isinstance(head, Head) else None, class_output)


def _refuse_tensor(layers: Layers, where: str, tensor: str, candidates: Sequence[Candidate]) -> None:
    """Refuse a user's tensor that can't be measured. Raises UsageError."""
    inspect = f"robustcheck inspect {quoted(where)}"
    names = sorted(layers.image_tensors & layers.producers.keys())
    if tensor not in names:
        close = get_close_matches(tensor, names, n=1, cutoff=0.5)
        named = [*close, *(candidate.tensor for candidate in candidates), "NAME"]
        raise UsageError(
            f"{where}: --tensor is {tensor!r}; no tensor of that name is computed from the image",
            f"{inspect} --tensor {quoted(named[0])}",
        )
    kind = layers.types.get(tensor, TensorProto.FLOAT)
    if kind not in FLOATS:
        name = TensorProto.DataType.Name(kind)
        message = f"{where}: --tensor is {tensor!r} of type {name}; a representation is a float tensor"
        raise UsageError(message, inspect)


def _head_input(layers: Layers, where: str, role: Role) -> Choice:
    head = role.head
    assert head is not None
    assumed = role.is_class is None
    what = " of a classifier"
    if assumed:
        what = f"; assumed, since {role.output!r} could be class scores or an embedding"
    why = f"input of the last linear layer ({head.op}){what}: {role.why}"
    representation = _represent(layers, where, head.tensor, "head_input", why, head, assumed=assumed)
    # a ZipMap's maps have no type of a tensor
    is_number = layers.types.get(role.output, TensorProto.STRING) != TensorProto.STRING
    return Choice(representation, head, role.output if role.is_class and is_number else None)


def _represent(
    layers: Layers, where: str, tensor: str, rule: str, why: str, head: Head | None = None, *, assumed: bool = False
) -> Representation:
    shape = layers.shapes.get(tensor)
    pooling = choose_pool(layers, tensor, shape, head.tail.ops if head else frozenset(), where=where)
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
