"""The texts of an index verdict's reasons and next steps, by reason id."""

_IN_COMMON = "Look at what all vectors have in common, such as one large feature."
INDEX_REASONS: dict[str, tuple[str, str]] = {
    "cosine": ("the worst 5 % of the photos have vectors that are less alike than `--min-cosine` asks.", ""),
    **dict.fromkeys(
        ("recall@1", "recall@5", "recall@10"),
        ("the candidate's queries find fewer of the reference's neighbours than `--min-recall` asks.", ""),
    ),
    "top-1": ("fewer photos keep their most similar class of `--text` than `--min-recall` asks.", ""),
    "length": ("the vectors have other lengths, which a search by dot product or by distance sees.", ""),
    "permuted": (
        "the candidate's features are those of the reference, or of the vectors in a file, in another order.",
        "Embed the index again, or put the features in the order of the index.",
    ),
    "rotated": ("a rotation turns the candidate's vectors into the reference's.", ""),
    "ties": ("rounding decides which neighbours are found, so it is not known how many were kept.", _IN_COMMON),
    "same_for_all": ("the query of another photo finds the same neighbours, so kept ones show nothing.", _IN_COMMON),
    "other_index": (
        "vectors of photos in the index are not the reference's vectors of these photos.",
        "Name the reference that the index was made with.",
    ),
    "runtime_differs": (
        "by reference arithmetic the vectors are much closer to the reference's, or further away: the answer is about "
        "this machine, and not about the file.",
        "For a machine with exact int8 sums (VNNI, ARM), add `--arithmetic exact`. For this one alone, add "
        "`--arithmetic machine`.",
    ),
    "other_ids": (
        "the index holds the photos' vectors under the ids of other photos.",
        "Write vectors and ids in the same order, as the photos were embedded.",
    ),
    "changed_index": (
        "the index holds vectors that were reduced, quantised, rotated or centred, or are near the reference's.",
        "Give the vectors as the reference makes them, before any such change; a search of the changed ones "
        "changes its queries, too.",
    ),
    "other_preprocessing": (
        "the index holds this model's vectors of photos that were preprocessed in another way.",
        "Preprocess queries in the same way (`--preprocess FILE`), or embed the photos again as the file says.",
    ),
    "index_lengths": (
        "the vectors in the index have other lengths than the reference's, which the search sees.",
        "If vectors are normalised or scaled before they are searched, use `--metric cosine`.",
    ),
    "assumed_preprocessing": (
        "the pixels that one of the two models got were assumed, and others would give other vectors.",
        "Name what both were trained with: add `--preprocess FILE`. Or give the file its contract: `robustcheck export "
        "onnx FILE.onnx --preprocess FILE -o NEW.onnx`.",
    ),
    "untested_index": (
        "too few photos have their vector in the index to test which file made it.",
        "Give 72 or more photos that are in the index, and their file names as ids. To go without this test "
        "where there is a reference, use `--accept-untested-index`.",
    ),
    "no_vectors": (
        "the baseline was written without vectors.",
        "Write the baseline with --write-baseline FILE.npz, which keeps vectors.",
    ),
    "other_images": ("the baseline's vectors are of other photos.", "Compare on its images."),
    "another_width": (
        "the candidate has vectors of another width than the reference, or than the index.",
        "Embed the index again with the candidate, or find the file that made it.",
    ),
    "unsound": ("a check of one of the models finds that its vectors, or the photos, can't be relied on.", ""),
}
"""Reasons for an index verdict: what each means, and the next step where it is always the same."""
INDEX_STEPS = {
    "re-embed": "Embed the index again with the candidate, or look at how the candidate was made.",
    "undecided": "Give more photos, of the kind that you search for.",
}
"""The next step of the others, by verdict."""
