"""benchmarks/predict.py: its page is what it writes, and the numbers on it are right."""

from support.scripts import load

facts, _, predict = map(load, ("benchmarks/predict_facts", "benchmarks/predict_text", "benchmarks/predict"))

ROBUST_PASS = {
    "openai RN50", "openai ViT-B/32", "openai ViT-B/16", "openai ViT-L/14", "laion2b ViT-B/32", "laion2b ViT-L/14",
    "laion2b ViT-H/14", "SigLIP SO400M/14-384",
}  # fmt: skip


def test_the_page_is_what_the_script_writes() -> None:
    assert predict.PAGE.read_text(encoding="utf-8") == predict.page(), "python benchmarks/predict.py"


def test_hits_and_misses_by_name() -> None:
    known = [one for one in facts.measured() if one.mean_pp is not None]
    missed, fragile = {"laion2b ViT-bigG/14": False}, {"VGG16 torchvision": False, "DenseNet-121": False}
    for label, passed in (("present", dict.fromkeys(ROBUST_PASS, True) | missed), ("absent", fragile)):
        assert {one.name: one.passed for one in facts.with_label(label, known)} == passed
