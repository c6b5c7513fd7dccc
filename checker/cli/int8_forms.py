"""Show the forms of int8-qdq that an export tried."""

from collections.abc import Iterator, Sequence
from itertools import compress
from math import isnan

from ...exporters.forms import Tried
from ..report.document import Column
from ..report.terminal import WIDE, Pen, Trimmed, table_of
from .output import ascii_only, console_for

COLUMNS = (
    Column("form", no_wrap=True),
    Column("MB", right=True),
    Column("images/s", right=True, wide_only=True),
    Column("cosine", right=True),
    Column("recall@10", right=True),
    Column("features", right=True),
    Column("", no_wrap=True),
)
LEGEND = (
    "cosine: of the worst 5 % of the photos. cosine and recall@10: on this CPU / with exact sums, where these differ. "
    "features: outlier features of the original that are kept. *: where int8 sums are exact."
)


def show_forms(forms: Sequence[Tried], written: str) -> None:
    """Print a row for each form, and what the forms with a fault have. written: the name of the one in the file."""
    console = console_for()
    pen = Pen(ascii_only(console))
    shown = [console.width >= WIDE or not column.wide_only for column in COLUMNS]
    rows = (compress(_row(form, written), shown) for form in forms)
    console.print(Trimmed(table_of(pen, [*compress(COLUMNS, shown)], rows)))
    console.print(pen.say(LEGEND, "dim"))
    for form in forms:
        if form.fault:
            why = f"{form.form.name}: {form.fault}"
            console.print(pen.say(why))


def _row(tried: Tried, written: str) -> Iterator[str]:
    yield tried.form.name
    yield f"{tried.size_bytes / 1e6:.1f}" if tried.size_bytes else "–"
    yield f"{tried.images_per_s:.0f}" if tried.images_per_s else "–"
    for name in ("cosine", "recall"):
        values = [getattr(kept, name) for kept in (tried.plain, tried.exact)]
        texts = ["–" if isnan(value) else f"{value:.3f}" for value in values]
        yield " / ".join(dict.fromkeys(texts))
    both = min(tried.plain.features, tried.exact.features)
    yield f"{both} of {tried.n_features}" if tried.n_features else "–"
    yield _answer(tried, written)


def _answer(tried: Tried, written: str) -> str:
    if tried.form.name == written:
        return "written"
    if tried.fault:
        return "refused"
    if not tried.holds:
        return "loses too much"
    return "keeps all" if tried.form.is_same_everywhere else "keeps all*"
