"""Adapters under the training loops of others: two processes, Hugging Face's Trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_training import adapted_model, train

from cospipe.ir.eager_adapters import adapt, load_adapter
from cospipe.ir.spectral_config import SpectralConfig


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    script, output = Path(__file__).with_name("distributed_training.py"), tmp_path / "a.safetensors"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    model, adapters = adapted_model()
    adapters.remove()
    together = load_adapter(model, output)
    alone, single = adapted_model()
    train(alone, single)
    assert torch.stack([delta.coefficients.abs().max() for delta in single.deltas().values()]).min() > 1e-3
    found, expected = together.trainable_parameters(), single.trainable_parameters()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_hugging_faces_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=48, max_position_embeddings=16, num_labels=2)
    model = transformers.BertForSequenceClassification(config)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapters = adapt(model, SpectralConfig(n=100, layers="*.query|*.value", also_train="classifier"))
    words = torch.randint(1, 50, (64, 8))
    rows = [{"input_ids": row, "labels": int(row[0] > 25)} for row in words]

    def loss():
        with torch.no_grad():
            return model.eval()(words, labels=torch.tensor([row["labels"] for row in rows])).loss.item()

    options = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=40,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=0.02,
        max_grad_norm=1.0,
        report_to=[],
        save_steps=40,
        use_cpu=True,
    )
    before = loss()
    transformers.Trainer(model, options, train_dataset=rows).train()
    assert loss() < 0.9 * before
    assert all(delta.coefficients.abs().max() > 1e-3 for delta in adapters.deltas().values())
    assert list((tmp_path / "run").glob("checkpoint-*/model.safetensors"))
    adapters.save(tmp_path / "a.safetensors")
    trained = model.eval()(words).logits
    adapters.remove()
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    load_adapter(model, tmp_path / "a.safetensors")
    assert torch.equal(model(words).logits, trained)
