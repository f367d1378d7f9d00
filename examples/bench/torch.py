"""PyTorch's side of the bench: answers one JSON line for each on standard input. Run by the example, not by hand."""
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


def distribute(kind, ids, vocab_size):
    """Turns uniform ids into `zipf` or `same` ids, as the example does."""
    if kind == "same":
        return torch.full_like(ids, ids.flatten()[0])
    if kind == "zipf":
        sums = list(accumulate(1.0 / rank for rank in range(1, vocab_size + 1)))
        found = [bisect_right(sums, (id + 0.5) / vocab_size * sums[-1]) for id in ids.flatten().tolist()]
        return torch.tensor(found).view(ids.shape)
    return ids


class Bench:
    def __init__(self, case, batch, length, n_embd, vocab_size, dtype, ids, sparse=False):
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
            at = torch.arange(min(256, n_tokens)) * 7919 % n_tokens
            if result.dim() == 2:
                is_wte = len(result) == self.wte.num_embeddings and index == 0
                at = self.ids.flatten()[at] if is_wte else at % len(result)
            rows = result.detach().flatten(0, -2)[at].float()
            columns = torch.arange(len(rows)) * 31 % rows.shape[1]
            taken.append(rows[torch.arange(len(rows)), columns].tolist())
        return taken


def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1000


def answer(request, state):
    what = request.pop("do")
    if what == "version":
        return torch.__version__
    if what == "start":
        state.clear()
        state["all"] = Bench(**request)
        state["all"].run()
        samples = state["all"].samples()
        if request["case"] == "step_rows":  # what ours computes is SparseAdam's
            state["sparse"] = Bench(**request, sparse=True)
            state["sparse"].run()
            samples = state["sparse"].samples()
        return samples
    if what == "time":
        variant = request["variant"]
        torch.set_num_threads(1 if variant == "torch_1" else N_THREADS)
        bench = state["sparse" if variant == "torch_sparse" else "all"]
        if request["n"] > 1:
            bench.run()  # not counted, as for the others
        if bench.case != "backward":
            start = time.perf_counter()
            for _ in range(request["n"]):
                bench.run()
            return time.perf_counter() - start
        return sum(bench.run() for _ in range(request["n"]))
    if what == "peak":
        torch.zeros(100).add(1).sum()
        before = memory("VmRSS")
        bench = Bench(**request)
        bench.run()
        bench.run()
        return memory("VmHWM") - before


state = {}
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line), state)))
