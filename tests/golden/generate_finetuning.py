#!/usr/bin/env python3
"""Writes finetuning.json: losses of `weights/tiny-gpt2` while PyTorch fine-tunes it on a part of Genesis.

    pip install torch transformers tokenizers safetensors numpy
    python tests/golden/generate_finetuning.py

The recipe is `pretrain`'s: windows side by side in torch's order, AdamW, nanoGPT's schedule, clipping. Nothing of this crate
runs here. Each run has the options that `pretrain` gets beside those of all, the loss of each step, and the validation loss
after some: the mean over all tokens of another part of Genesis but the first.
"""
import json
import pathlib

import torch
import transformers
from compare_with_torch import ROOT, TEXT, token_ids
from train_with_torch import TorchRun

OUT = pathlib.Path(__file__).parent / "finetuning.json"
WEIGHTS = ROOT / "weights" / "tiny-gpt2"
TRAINING, VALIDATION = (0, 6000), (6000, 9000)  # bytes of the text
SETTINGS = dict(max_length=32, batch_size=4, steps=20, learning_rate=1e-3, warmup=3, weight_decay=0.1, grad_clip=1.0, seed=123)
EVAL_EVERY = 10
RUNS = [dict(), dict(freeze="wte,wpe,h.0-1"), dict(freeze="ln_f,h.1.attn,h.2"), dict(dropout=0.1, seed=7)]


def validation_loss(model, ids):
    model.eval()
    length, total = SETTINGS["max_length"], 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, length):
            window = torch.tensor(ids[start : start + length + 1])
            logits = model(window[None, :-1]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    model.train()
    return total / (len(ids) - 1)


def main():
    text = TEXT.read_bytes()
    training, validation = (token_ids(text[start:end].decode()) for start, end in (TRAINING, VALIDATION))
    runs = []
    for options in RUNS:
        torch_run = TorchRun({"dropout": 0.0, **SETTINGS, **options}, WEIGHTS, ids=training)
        losses, validation_losses = [], []
        for step, loss in enumerate(torch_run.steps()):
            if step and step % EVAL_EVERY == 0:
                validation_losses.append(validation_loss(torch_run.model, validation))
            losses.append(loss)
        validation_losses.append(validation_loss(torch_run.model, validation))
        runs.append({"options": options, "losses": losses, "validation_losses": validation_losses})
        print(options, losses[0], losses[-1], validation_losses)
    written = {
        "made_by": "python tests/golden/generate_finetuning.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "training": TRAINING,
        "validation": VALIDATION,
        "settings": {**SETTINGS, "eval_every": EVAL_EVERY},
        "runs": runs,
    }
    OUT.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
