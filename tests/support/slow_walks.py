"""The walks over a graph, written down plainly: every definition calls itself on the inputs of a node, afresh.

Takes time that doubles with each node that joins two branches; for graphs of a dozen nodes.
"""

import math

import onnx

from robustcheck_onnx.checker.model import layers
from robustcheck_onnx.thresholds.frozen import End

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
        if tensor == self.image:
            return True
        node = self.nodes.get(tensor)
        return node is not None and node.op_type != "Shape" and any(self.depends(name) for name in node.input)

    def data(self, tensor: str) -> tuple[str, ...]:
        """Inputs that carry the image to a tensor."""
        node = self.nodes.get(tensor)
        if node is None or not self.depends(tensor):
            return ()
        of_image = tuple(name for name in node.input if self.depends(name))
        if node.op_type in layers.FIRST_INPUT_ONLY:
            return tuple(name for name in node.input[:1] if self.depends(name))
        if node.op_type == "Gather" and node.input[0] in of_image:
            return (node.input[0],)
        if node.op_type in ("Div", "Sub", "Mul") and len(of_image) > 1:
            return tuple(name for name in of_image if self.statistic(name) is None) or of_image[:1]
        return of_image

    def statistic(self, tensor: str) -> str | None:
        """The Reduce op, where a tensor is a statistic of each image."""
        node = self.nodes.get(tensor)
        if node is None or not self.depends(tensor):
            return None
        if node.op_type in layers.REDUCE:
            return str(node.op_type)
        of_image = [name for name in node.input if self.depends(name)]
        if node.op_type not in layers.OF_A_STATISTIC or len(of_image) != 1 or len(self.data(tensor)) != 1:
            return None
        return self.statistic(self.data(tensor)[0])

    def chain(self, tensor: str) -> list[str]:
        """The tensor, and every one that it is an elementwise function of, the nearest first."""
        node = self.nodes.get(tensor)
        if node is None or node.op_type not in layers.ELEMENTWISE or not self.data(tensor):
            return [tensor]
        source = self.common(self.data(tensor))
        return [tensor] if source is None else [tensor, *self.chain(source)]

    def common(self, tensors: tuple[str, ...]) -> str | None:
        """The nearest tensor that all are elementwise functions of."""
        chains = [self.chain(tensor) for tensor in tensors]
        return next((name for name in chains[0] if all(name in chain for chain in chains)), None)

    def head(self, tensor: str) -> tuple[str, str, frozenset[str]] | None:
        """("head" or "join", the tensor that it makes, ops crossed); None where no linear layer ends a tensor."""
        node, names = self.nodes.get(tensor), self.data(tensor)
        if node is None or not names:
            return None
        if node.op_type in layers.LINEAR:
            return ("head", tensor, frozenset()) if len(names) == 1 else None
        if node.op_type not in layers.AFTER_HEAD:
            return None
        if node.op_type == "Gather" and not self.depends(node.input[0]):
            return None
        source = self.common(names)
        if source is None or (node.op_type not in layers.ELEMENTWISE and len(names) > 1):
            return ("join", tensor, frozenset())
        inner = self.head(source)
        if inner is None:
            return None
        more = {node.op_type} | ({layers.GATE} if len(names) > 1 else set())
        return (*inner[:2], inner[2] | more)

    def own_end(self, tensor: str) -> End | None:
        """What the node of a tensor is as an end; None to look through it."""
        node, names = self.nodes[tensor], self.data(tensor)
        op = node.op_type
        if op == "Gather" and not self.depends(node.input[0]):
            vectors = sum(size != 1 for size in self.constants.get(node.input[0], ())) > 1
            return End("other" if vectors else "activation", op)
        if op in layers.RESHAPE:
            return None
        for kinds, kind in ((layers.NORMALISATION, "normalisation"), (layers.POOL, "pool")):
            if op in kinds:
                return End(kind)
        if op in layers.LINEAR:
            return End("linear") if len(names) == 1 else End("other", op)
        if op in layers.ACTIVATION:
            return End("activation", op)
        if op not in layers.AFFINE:
            return End("other", op)
        if len(names) > 1:
            return End("other", op) if self.common(names) is None else End("activation")
        if op not in ("Mul", "Div"):
            return None
        if op == "Div" and node.input[0] not in names:
            return End("other", op)
        beside = [name for name in node.input if name not in names]
        vector = any(not self.depends(name) and math.prod(self.constants.get(name, (2,))) > 1 for name in beside)
        scaled = any(self.statistic(name) == "ReduceMean" for name in beside)
        return End("normalisation") if vector or scaled else None

    def is_comparison(self, tensor: str) -> bool:
        """Whether a condition is a comparison, be it turned round or cast."""
        node = self.nodes.get(tensor)
        if node is None or node.op_type == "Greater":
            return node is not None
        return node.op_type in ("Not", "Cast") and self.is_comparison(node.input[0])

    def rectified(self, tensor: str) -> str:
        """The activation that a tensor is an affine function of; "" for none."""
        if tensor not in self.nodes or not self.depends(tensor):
            return ""
        node, names, own = self.nodes[tensor], self.data(tensor), self.own_end(tensor)
        under = [self.rectified(name) for name in names]
        if own is not None and own.kind == "activation":
            return own.op or "made of several"
        if node.op_type in ("Max", "Min", "Sqrt", "ReduceL2", "Pow", "Greater"):
            return str(node.op_type)
        if node.op_type == "Where" and self.is_comparison(node.input[0]):
            return "Where"
        if node.op_type == "Mul" and len(names) == 2:
            gates = [self.end(name) in GATES for name in names]
            if sum(gates) == 1:
                return under[gates.index(False)]
            return "Mul" if all(self.end(name).kind == "activation" for name in names) else ""
        if len(names) > 1 and node.op_type == "Concat":
            return max(under)
        if len(names) > 1 and node.op_type in ("Add", "Sum", "Mean"):
            return max(under) if all(under) else ""
        return under[0] if len(names) == 1 else ""

    def end(self, tensor: str) -> End:
        """What a tensor ends in; the op of an activation made of several stays empty."""
        if tensor not in self.nodes or not self.depends(tensor):
            return INPUT
        node, own, rectified = self.nodes[tensor], self.own_end(tensor), self.rectified(tensor)
        under = [self.end(name) for name in self.data(tensor)]
        end = own or INPUT
        if node.op_type in ("Add", "Sum", "Mean", "Sub", "Concat") and len(under) > 1 and end.kind == "other":
            if rectified and node.op_type in ("Add", "Sum", "Mean") and any(e.kind == "linear_of" for e in under):
                return End("linear_of", rectified)
            end = self._joined(node.op_type, under)
        elif len(under) == 1 and (own is None or node.op_type == "Concat"):
            end = under[0]
        elif len(under) == 1 and end.kind == "pool":
            shines_through = under[0].kind in ("activation", "normalisation", "linear_of") or under[0] == INPUT
            end = under[0] if shines_through else end
        if own == end == LINEAR and not rectified and self.embedding(self.data(tensor)[0]) in (LINEAR, SECOND):
            return SECOND
        return End("linear_of", rectified) if end in (LINEAR, SUM) and rectified else end

    def embedding(self, tensor: str) -> End | None:
        """How the embedding ends that a tensor is but for its scale and what was picked from it; None for none."""
        if tensor not in self.nodes or not self.depends(tensor):
            return None
        node, names, own, end = self.nodes[tensor], self.data(tensor), self.own_end(tensor), self.end(tensor)
        if end in (LINEAR, SUM, SECOND):
            return end
        numerator = self.nodes.get(names[0])
        centred = numerator is not None and numerator.op_type == "Sub" and self.depends(names[0])
        if own == End("normalisation") and centred and any(map(self.statistic, node.input)):
            return None  # a layer norm
        if node.op_type == "LayerNormalization" or (own is not None and own.kind == "activation"):
            return None
        return self.embedding(names[0]) if len(names) == 1 else None

    @staticmethod
    def _joined(op: str, under: list[End]) -> End:
        for kind in BLOCKING:
            for end in under:
                if end.kind == kind:
                    return end
        if op == "Concat":
            if len(set(under)) == 1:
                return under[0]
            return next((end for end in under if end.kind == "linear_of"), End("other", "Concat"))
        unknown = [e for e in under if e not in (LINEAR, SUM) and e.kind != "linear_of"]
        for end in (*(e for e in unknown if e.op != "Gather"), *unknown):
            return end
        return End("other", "Sub") if op == "Sub" else STREAM if SUM in under else SUM
