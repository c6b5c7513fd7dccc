"""The walks over a graph, written down plainly: every definition calls itself on the inputs of a node, afresh.

Takes time that doubles with each node that joins two branches; for graphs of a dozen nodes.
"""

import math

import onnx

from robustcheck_onnx.checker.model import layers
from robustcheck_onnx.thresholds.profile import End

SUMS = ("Add", "Sum", "Mean")
BLOCKING = ("activation", "normalisation", "pool")
INPUT = End("other", "input")
LINEAR, SUM, SECOND, STREAM = End("linear"), End("other", "Add"), End("second_linear"), End("residual")
GATES = [End("activation", op) for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax")]


class SlowGraph:
    """A graph whose walks are recursive. Its nodes are in order; `constants` are shapes of initializers."""

    def __init__(self, graph: onnx.GraphProto, image: str, constants: dict[str, tuple[int, ...]]) -> None:
        self.nodes = {name: node for node in graph.node for name in node.output}
        self.image, self.constants = image, constants

    def depends(self, tensor: str) -> bool:
        """Whether the values of a tensor depend on the image."""
        return tensor == self.image or self.node(tensor) is not None

    def node(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor of the image."""
        node = self.nodes.get(tensor)
        return node if node and node.op_type != "Shape" and any(map(self.depends, node.input)) else None

    def data(self, tensor: str) -> tuple[str, ...]:
        """Inputs that carry the image to a tensor."""
        if (node := self.node(tensor)) is None:
            return ()
        op, of_image = node.op_type, tuple(filter(self.depends, node.input))
        if op in layers.FIRST_INPUT_ONLY or (op == "Gather" and self.depends(node.input[0])):
            return tuple(filter(self.depends, node.input[:1]))
        if op in ("Div", "Sub", "Mul") and len(of_image) > 1:
            return tuple(name for name in of_image if self.statistic(name) is None) or of_image[:1]
        return of_image

    def statistic(self, tensor: str) -> str | None:
        """The Reduce op, where a tensor is a statistic of each image."""
        if (node := self.node(tensor)) is None:
            return None
        if node.op_type in layers.REDUCE:
            return str(node.op_type)
        names = self.data(tensor)
        passes_on = node.op_type in layers.OF_A_STATISTIC and len(names) == 1 == sum(map(self.depends, node.input))
        return self.statistic(names[0]) if passes_on else None

    def chain(self, tensor: str) -> list[str]:
        """The tensor, and every one that it is an elementwise function of, the nearest first."""
        node, names = self.node(tensor), self.data(tensor)
        source = self.common(names) if node and node.op_type in layers.ELEMENTWISE and names else None
        return [tensor] if source is None else [tensor, *self.chain(source)]

    def common(self, tensors: tuple[str, ...]) -> str | None:
        """The nearest tensor that all are elementwise functions of."""
        first, *others = map(self.chain, tensors)
        return next((name for name in first if all(name in chain for chain in others)), None)

    def head(self, tensor: str) -> tuple[str, str, frozenset[str]] | None:
        """("head" or "join", the tensor that it makes, ops crossed); None where no linear layer ends a tensor."""
        node, names = self.node(tensor), self.data(tensor)
        if node is None or not names:
            return None
        if node.op_type in layers.LINEAR:
            return ("head", tensor, frozenset()) if len(names) == 1 else None
        if node.op_type not in layers.AFTER_HEAD or (node.op_type == "Gather" and not self.depends(node.input[0])):
            return None
        source = self.common(names)
        if source is None or (node.op_type not in layers.ELEMENTWISE and len(names) > 1):
            return ("join", tensor, frozenset())
        inner, gate = self.head(source), {layers.GATE} if len(names) > 1 else set()
        return inner and (*inner[:2], inner[2] | {node.op_type} | gate)

    def own_end(self, node: onnx.NodeProto, names: tuple[str, ...]) -> End | None:
        """What a node is as an end; None to look through it."""
        op = node.op_type
        if op == "Gather" and not self.depends(node.input[0]):
            vectors = sum(size != 1 for size in self.constants.get(node.input[0], ())) > 1
            return End("other" if vectors else "activation", op)
        if op in layers.RESHAPE:
            return None
        for kinds, end in (
            (layers.NORMALISATION, End("normalisation")),
            (layers.POOL, End("pool")),
            (layers.LINEAR, LINEAR if len(names) == 1 else End("other", op)),
            (layers.ACTIVATION, End("activation", op)),
        ):
            if op in kinds:
                return end
        if op not in layers.AFFINE or (op == "Div" and node.input[0] not in names):
            return End("other", op)
        if len(names) > 1:
            return End("other", op) if self.common(names) is None else End("activation")
        beside = [name for name in node.input if name not in names]
        vector = any(not self.depends(name) and math.prod(self.constants.get(name, (2,))) > 1 for name in beside)
        scaled = any(self.statistic(name) == "ReduceMean" for name in beside)
        return End("normalisation") if op in ("Mul", "Div") and (vector or scaled) else None

    def is_comparison(self, tensor: str) -> bool:
        """Whether a condition is a comparison, be it turned round or cast."""
        node = self.nodes.get(tensor)
        if node is None or node.op_type == "Greater":
            return node is not None
        return node.op_type in ("Not", "Cast") and self.is_comparison(node.input[0])

    def rectified(self, tensor: str) -> str:
        """The activation that a tensor is an affine function of; "" for none."""
        if (node := self.node(tensor)) is None:
            return ""
        op, names = str(node.op_type), self.data(tensor)
        own, under = self.own_end(node, names), [self.rectified(name) for name in names]
        if own is not None and own.kind == "activation":
            return own.op or "made of several"
        if op in ("Max", "Min", "Sqrt", "ReduceL2", "Pow", "Greater"):
            return op
        if op == "Where" and self.is_comparison(node.input[0]):
            return op
        if op == "Mul" and len(names) == 2:
            gates = [self.end(name) in GATES for name in names]
            if sum(gates) == 1:
                return under[gates.index(False)]
            return op if all(self.end(name).kind == "activation" for name in names) else ""
        if len(names) == 1 or (op in SUMS and all(under)) or op == "Concat":
            return max(under, default="")
        return ""

    def end(self, tensor: str) -> End:
        """What a tensor ends in; the op of an activation made of several stays empty."""
        if (node := self.node(tensor)) is None:
            return INPUT
        op, names, rectified = node.op_type, self.data(tensor), self.rectified(tensor)
        own, under = self.own_end(node, names), [self.end(name) for name in names]
        end = own or INPUT
        if op in (*SUMS, "Sub", "Concat") and len(under) > 1 and end.kind == "other":
            if rectified and op in SUMS and any(e.kind == "linear_of" for e in under):
                return End("linear_of", rectified)
            end = self._joined(op, under)
        elif len(under) == 1 and (own is None or op == "Concat"):
            (end,) = under
        elif len(under) == 1 and end.kind == "pool":
            shines_through = under[0].kind in ("activation", "normalisation", "linear_of") or under[0] == INPUT
            end = under[0] if shines_through else end
        if own == end == LINEAR and not rectified and self.embedding(names[0]) in (LINEAR, SECOND):
            return SECOND
        return End("linear_of", rectified) if end in (LINEAR, SUM) and rectified else end

    def embedding(self, tensor: str) -> End | None:
        """How the embedding ends that a tensor is but for its scale and what was picked from it; None for none."""
        if (node := self.node(tensor)) is None:
            return None
        names, end = self.data(tensor), self.end(tensor)
        if end in (LINEAR, SUM, SECOND):
            return end
        own, numerator = self.own_end(node, names), self.node(names[0])
        centred = own == End("normalisation") and numerator and numerator.op_type == "Sub"
        is_norm = node.op_type == "LayerNormalization" or (centred and any(map(self.statistic, node.input)))
        if is_norm or (own is not None and own.kind == "activation"):
            return None
        return self.embedding(names[0]) if len(names) == 1 else None

    @staticmethod
    def _joined(op: str, under: list[End]) -> End:
        for kind in BLOCKING:
            for end in under:
                if end.kind == kind:
                    return end
        if op == "Concat":
            alike = under if len(set(under)) == 1 else [end for end in under if end.kind == "linear_of"]
            return next(iter(alike), End("other", "Concat"))
        unknown = [e for e in under if e not in (LINEAR, SUM) and e.kind != "linear_of"]
        if unknown:
            return min(unknown, key=lambda end: end.op == "Gather")
        return End("other", "Sub") if op == "Sub" else STREAM if SUM in under else SUM
