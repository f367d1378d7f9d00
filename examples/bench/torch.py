"""PyTorch's and transformers' cases of the bench. Run by the example, with `answers.py` behind it, not by hand."""
import json
import os
import sys
import time
from bisect import bisect_right
from itertools import accumulate

import torch
from torch import nn
from torch.nn.functional import cross_entropy

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
N_THREADS = torch.get_num_threads()
N_SAMPLES = 256
VERSION = torch.__version__


def distribute(kind, ids, vocab_size):
    """Turns uniform ids into `zipf` or `same` ids, as the example does."""
    if kind == "same":
        return torch.full_like(ids, ids.flatten()[0])
    if kind == "zipf":
        sums = list(accumulate(1.0 / rank for rank in range(1, vocab_size + 1)))
        found = [bisect_right(sums, (id + 0.5) / vocab_size * sums[-1]) for id in ids.flatten().tolist()]
        return torch.tensor(found).view(ids.shape)
    return ids


def gpt2_weights(n_embd, n_layer, vocab_size, dtype):
    """The weights of the example's GPT-2, by Hugging Face's names, `[in, out]`; biases are 0."""
    torch.manual_seed(123)
    draw = lambda *dims: torch.empty(*dims, dtype=dtype).normal_(0, 0.02)
    weights = {"wte": draw(vocab_size, n_embd), "wpe": draw(1024, n_embd)}
    for i in range(n_layer):
        for name, n_in, n_out in [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]:
            weights[f"h.{i}.{name}"] = draw(n_in * n_embd, n_out * n_embd)
    return weights


def decoded_ids(batch, vocab_size):
    """Of each sequence 64 tokens, and the one that is decoded."""
    return (torch.arange(batch * 65) * 7919 % vocab_size).view(batch, 65)


class Decode:
    """transformers: one token behind 64, for each of `batch` sequences."""

    case = "decode"

    def __init__(self, batch, n_embd, n_layer, n_head, vocab_size, dtype, **_):
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

        dtype = DTYPES[dtype]
        sizes = dict(vocab_size=vocab_size, n_positions=1024, n_embd=n_embd, n_layer=n_layer, n_head=n_head)
        config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        self.model = GPT2LMHeadModel(config).to(dtype).eval()
        with torch.no_grad():
            for name, weight in gpt2_weights(n_embd, n_layer, vocab_size, dtype).items():
                self.model.get_parameter(f"transformer.{name}.weight").copy_(weight)
            ids = decoded_ids(batch, vocab_size)
            self.last, self.cache = ids[:, 64:], DynamicCache(config=config)
            self.model(ids[:, :64], past_key_values=self.cache, use_cache=True)

    def run(self):
        with torch.no_grad():
            self.result = self.model(self.last, past_key_values=self.cache, use_cache=True).logits
            self.result.argmax(-1)
            self.cache.crop(-1)

    def samples(self):
        return [sampled(self.result, torch.arange(N_SAMPLES) * 7919 % len(self.last))]


def sampled(result, rows):
    rows = result.detach().flatten(0, -2)[rows].float()
    columns = torch.arange(len(rows)) * 31 % rows.shape[1]
    return rows[torch.arange(len(rows)), columns].tolist()


class Bench:
    def __init__(self, case, batch, length, n_embd, vocab_size, dtype, ids, sparse=False, **_):
        dtype = DTYPES[dtype]
        self.case = case
        torch.manual_seed(123)
        table = lambda n_rows, std: torch.empty(n_rows, n_embd, dtype=dtype).normal_(0, std)
        states = lambda std: table(batch * length, std).view(batch, length, n_embd)
        weight, positions = table(vocab_size, 0.02), table(length, 0.02)
        draw = lambda: distribute(ids, torch.randint(0, vocab_size, (batch, length)), vocab_size)
        self.ids, self.targets = draw(), draw()
        self.grad, self.hidden = states(1.0), states(1.0)
        self.positions = torch.arange(length)
        self.wte = nn.Embedding(vocab_size, n_embd, sparse=sparse, _weight=weight)
        self.wpe = nn.Embedding(length, n_embd, sparse=sparse, _weight=positions)
        self.hidden.requires_grad_(case == "step_tied")
        self.buffer = torch.zeros_like(self.grad)
        if case.startswith("step"):
            weights = [self.wte.weight, self.wpe.weight]
            if sparse:
                self.optimizer = torch.optim.SparseAdam(weights, lr=1e-3)
            else:
                self.optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.01, fused=True)

    def forward(self):
        return self.wte(self.ids) + self.wpe(self.positions)

    def run(self):
        """Once; the seconds of the part that counts."""
        start = time.perf_counter()
        if self.case == "forward":
            with torch.no_grad():
                self.result = self.forward()
        elif self.case == "forward_into":
            with torch.no_grad():
                rows = self.buffer.view(-1, self.buffer.shape[-1])
                torch.index_select(self.wte.weight, 0, self.ids.view(-1), out=rows)
                self.buffer.add_(self.wpe.weight)
                self.result = self.buffer
        elif self.case == "head":
            with torch.no_grad():
                self.result = self.hidden @ self.wte.weight.T
        elif self.case == "backward":
            x = self.forward()
            self.wte.weight.grad = self.wpe.weight.grad = None
            start = time.perf_counter()
            x.backward(self.grad)
        else:
            x = self.forward()
            if self.case == "step_tied":
                logits = self.hidden.flatten(0, 1) @ self.wte.weight.T
                self.hidden.grad = None
                loss = cross_entropy(logits, self.targets.flatten())
                loss.backward()
                self.result = loss.detach().view(1, 1)
                del logits
            x.backward(self.grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - start

    def results(self):
        if self.case.startswith("forward") or self.case == "head":
            return [self.result]
        if self.case == "backward":
            return [self.wte.weight.grad, self.wpe.weight.grad]
        if self.case == "step_tied":
            # In half types every logit is rounded here, and ours is not.
            return [self.result, self.hidden.grad] if self.hidden.dtype == torch.float32 else [self.result]
        return [self.wte.weight, self.wpe.weight]

    def samples(self):
        n_tokens = self.ids.numel()
        taken = []
        for index, result in enumerate(self.results()):
            at = torch.arange(N_SAMPLES) * 7919 % n_tokens
            if result.dim() == 2:
                is_wte = len(result) == self.wte.num_embeddings and index == 0
                at = self.ids.flatten()[at] if is_wte else at % len(result)
            taken.append(sampled(result, at))
        return taken


def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1000
