"""Models and tokenizers that the tests of fine-tuning name as package.module:factory."""

import torch
from torch import nn


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 14))


def narrow():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 5))


def unseeded():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def new_head():
    """A base that is always the same, and a last layer that never is."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    body = nn.Linear(64, 64)
    torch.set_rng_state(state)
    return nn.Sequential(body, nn.ReLU(), nn.Linear(64, 10))


def tied():
    """Two layers that share one weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False))
    model[2].weight = model[0].weight
    return model


def conv():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3)
    )


class Scaled(nn.Module):
    """Logits times a number that is not one."""

    def __init__(self):
        super().__init__()
        self.linear = mlp()

    def forward(self, x):
        return self.linear(x) * float("nan")


class Detached(nn.Module):
    """Logits that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.linear = mlp()

    def forward(self, x):
        return self.linear(x).detach()


class Tires(Detached):
    """Answers a few times, then no longer."""

    left = 5

    def forward(self, x):
        self.left -= 1
        if not self.left:
            raise IndexError("index out of range in self")
        return self.linear(x)


class Empty(nn.Module):
    """Gives nothing by name."""

    def forward(self, x):
        return {}


class WordCounter(nn.Module):
    """Takes tensors by name, as Hugging Face's models do, and gives its logits by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(256, 16)
        self.classifier = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        weights = attention_mask[..., None].float()
        mean = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return {"logits": self.classifier(mean), "mean": mean}


def characters():
    """A tokenizer: the bytes of a text, and a tensor that the model does not take."""

    def tokens(texts):
        rows = [list(text.encode()) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}

    return tokens


def three():
    return 3
