"""Make the head of a zero-shot classifier with a text tower."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import CallError, ExportError, MissingError, first_line, quiet
from .contract import Output, Outputs, Prompts
from .wrappers import Rows, Tower, Wrapped

Embed = Callable[[list[str]], Tensor]  # texts → (text, feature), not normalised
TEXTS_A_BATCH = 256  # prompts in one pass of the text tower: bounds memory


def with_text_head(module: nn.Module, outputs: Outputs, prompts: Prompts, model: Any, embed: Embed, name: str) -> Tower:
    """Give an image tower a text head, so that forward(image) returns its outputs and the class logits.

    logits = representation / ‖representation‖ · weightᵀ + bias; weight (class, feature) holds the logit scale.
    The representation itself stays as the tower gives it.

    Args:
        model: has the logit scale, and a logit bias where there is one.
    """
    weight = text_head(prompts, embed, model.logit_scale, name)
    bias = getattr(model, "logit_bias", None)
    n_classes, n_features = weight.shape
    head = nn.Linear(n_features, n_classes, bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.fill_(float(bias.detach()))

    def classify(self: Any, image: Tensor) -> Rows:
        rows = self.tower(image)
        direction = nn.functional.normalize(rows[0], dim=-1)
        return *rows, self.head(direction)

    meaning = (
        f"zero-shot class logits: cosine of the normalised representation with {len(prompts.classes)} text embeddings "
        f"({len(prompts.templates)} templates averaged), times the logit scale"
    )
    logits = Output("logits", meaning, "logits")
    return Wrapped(classify, tower=module, head=head), (*outputs, logits)


def text_head(prompts: Prompts, embed: Embed, logit_scale: Tensor, name: str) -> Tensor:
    """Return the weight (class, feature) of a zero-shot head, as CLIP's authors compute it.

    Every class name goes into every template, each text embedding is L2-normalised, averaged over the templates,
    normalised again (Radford et al. 2021, section 3.1.4), and multiplied by e to the logit scale.

    Raises ExportError when an embedding is not finite or zero (3).
    """
    normalize = nn.functional.normalize
    texts = [text for each in prompts.classes for text in prompts.texts(each)]
    with torch.no_grad():
        parts = [embed(texts[i : i + TEXTS_A_BATCH]).float() for i in range(0, len(texts), TEXTS_A_BATCH)]
        embeddings = normalize(torch.cat(parts), dim=-1)
        rows = embeddings.reshape(len(prompts.classes), len(prompts.templates), -1)
        mean = normalize(rows.mean(1), dim=-1)
        weight = mean * float(logit_scale.exp())
    if not bool(torch.isfinite(weight).all()) or bool((weight == 0).all(dim=1).any()):
        raise ExportError(f"{name}: text embeddings are zero or not finite; a head must be", "check the weights")
    return weight


def tokenizer(name: str, make: Callable[[], Any]) -> Any:
    """Return a tokenizer, or raise an error of our own for one that is not on this machine (exit 4)."""
    with quiet() as messages:
        try:
            return make()
        except Exception as error:  # hub, file and parser errors of many libraries; translated, not lost
            raise MissingError(
                f"{name}: tokenizer of the text tower is not on this machine and could not be downloaded "
                f"({first_line(error)[:200]}){messages.quoted(1)}; --zero-shot needs it",
                "run the export once where there is a network, and copy $HF_HOME/hub here; or place tokenizer.json and "
                "tokenizer_config.json in the checkpoint's folder",
            ) from error


def refuse_long(texts: Sequence[str], lengths: Iterable[int], limit: int, name: str) -> None:
    """Refuse a prompt with more tokens than the text tower reads, because tokenizers cut the rest off."""
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise CallError(
                f"{name}: prompt {text[:60]!r} has {length} tokens; the text tower reads {limit}",
                "shorten the class name or the template",
            )
