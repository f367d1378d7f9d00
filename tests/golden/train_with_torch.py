#!/usr/bin/env python3
"""Trains the model of `pretrain` in PyTorch too: the same weights, batches, dropout, optimizer. Run by hand, not by CI.

    pip install torch transformers tokenizers safetensors numpy
    cargo build --release --example pretrain
    python tests/golden/train_with_torch.py                  # losses of 100 steps, gradients of the first
    python tests/golden/train_with_torch.py --dropout 0.1    # also checks that dropout draws the same masks
    python tests/golden/train_with_torch.py --init-from weights/tiny-gpt2 --freeze wte,h.0-1    # fine-tunes instead
    python tests/golden/train_with_torch.py --time           # time and memory of a step, taking turns

transformers opens the weights that `pretrain --steps 0` saves, or those of --init-from. Batches come from torch's
DataLoader, started from the saved state of the generator, or from the seed. The exit status is 1 if a loss differs by more
than 1e-5 (step 1) to 1e-3 (step 100) of its value, a gradient by more than 1e-5 of its tensor's largest element, or a frozen
weight in one bit.
"""
import argparse
import copy
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import torch
import transformers
from compare_with_torch import ROOT, TEXT, GPTDatasetV1, run, token_ids
from safetensors.torch import load_file
from torch.utils.data import DataLoader

PRETRAIN = ROOT / "target" / "release" / "examples" / "pretrain"
TIMED = dict(n_layer=4, n_head=4, n_embd=256, max_length=256, batch_size=8)


def options(settings, **others):
    every = {name: value for name, value in {**settings, **others}.items() if value not in ("", None)}
    return [text for name, value in every.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def torch_state(saved):
    """Converts the generator's state in a file of `pretrain` for `torch.set_rng_state`."""
    data = bytes.fromhex(saved)
    index = int.from_bytes(data[8:12], "little")
    state = numpy.zeros(5056, numpy.uint8)
    state[0:8] = numpy.frombuffer(data[0:8], numpy.uint8)
    state[8:16] = numpy.array([1 if index == 0 else 625 - index, 1], "<u4").view(numpy.uint8)
    state[16:24] = numpy.array([index], "<u8").view(numpy.uint8)
    state[24:5016] = numpy.frombuffer(data[12 : 12 + 4 * 624], "<u4").astype("<u8").view(numpy.uint8)
    return torch.from_numpy(state)


def learning_rate(settings, step):
    """nanoGPT's get_lr."""
    highest, warmup, steps = settings["learning_rate"], settings["warmup"], settings["steps"]
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    lowest = highest / 10
    return lowest + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) * (highest - lowest)


def is_frozen(freeze, name):
    """Says whether a parameter is of a module in a list such as `wte,h.0-5`."""
    modules = []
    for module in filter(None, freeze.split(",")):
        blocks = re.fullmatch(r"h\.(\d+)-(\d+)", module)
        modules += [f"h.{i}" for i in range(int(blocks[1]), int(blocks[2]) + 1)] if blocks else [module]
    return any(f"{name.removeprefix('transformer.')}.".startswith(f"{module}.") for module in modules)


def loss_of(model, batch):
    input_ids, target_ids = batch
    logits = model(input_ids).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target_ids.flatten())


class TorchRun:
    def __init__(self, settings, weights, state=None, attention="eager", ids=None):
        self.settings = settings
        dropout = {f"{where}_pdrop": settings["dropout"] for where in ("embd", "attn", "resid")}
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            weights, attn_implementation=attention, dtype=torch.float32, **dropout
        ).train()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = not is_frozen(settings.get("freeze", ""), name)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings["weight_decay"]},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=(0.9, 0.95), eps=1e-8, fused=True)
        if ids is None:
            ids = token_ids(TEXT.read_text())
            ids = ids[: int(0.9 * len(ids))]
        length = settings["max_length"]
        dataset = GPTDatasetV1(ids, length, length)
        self.loader = DataLoader(dataset, batch_size=settings["batch_size"], shuffle=True, drop_last=True)
        if state is None:
            torch.manual_seed(settings["seed"])
        else:
            torch.set_rng_state(torch_state(json.loads(state.read_text())["generator"]))

    def gradients(self):
        """Returns the gradients of the step that was yielded, without dropout in f64.

        On trained weights the sums of f32 cancel: there PyTorch's own f32 is up to 6e-5 from its f64, ours 2e-6.
        """
        model = self.model
        if self.settings["dropout"] == 0:
            model = copy.deepcopy(self.model).double()
            model.zero_grad()
            loss_of(model, self.batch).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

    def steps(self):
        """Yields the loss of each step, after its backward pass and before the optimizer's step."""
        for step in range(self.settings["steps"]):
            if step % len(self.loader) == 0:
                batches = iter(self.loader)
            self.batch = next(batches)
            loss = loss_of(self.model, self.batch)
            self.adamw.zero_grad()
            loss.backward()
            yield loss.item()
            if self.settings["grad_clip"]:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["grad_clip"])
            for group in self.adamw.param_groups:
                group["lr"] = learning_rate(self.settings, step)
            self.adamw.step()


def compare(settings, folder):
    if settings["init_from"]:
        torch_run = TorchRun(settings, settings["init_from"])
    else:
        run("pretrain", *options(settings, steps=0, out=folder / "fresh"))
        fresh = folder / "fresh" / "step-000000"
        torch_run = TorchRun(settings, fresh, fresh / "loader.json")
    before = {name: parameter.detach().clone() for name, parameter in torch_run.model.named_parameters()}
    run("pretrain", *options(settings, out=folder / "trained", eval_every=10**9))
    run("pretrain", *options(settings, steps=1, grad_clip=0, out=folder / "first"))
    lines = (folder / "trained" / "loss.csv").read_text().splitlines()[1:]
    ours = [float(line.split(",")[2]) for line in lines]
    worst, failed = 0.0, False
    for step, theirs in enumerate(torch_run.steps()):
        if step == 0:
            state = load_file(folder / "first" / "step-000001" / "optimizer.safetensors")
            for name, expected in torch_run.gradients().items():
                gradient = state[f"{name}.exp_avg"] / (1 - 0.9)  # holds after a first step without clipping
                apart = ((gradient - expected).abs().max() / expected.abs().max()).item()
                failed |= apart > 1e-5
                print(f"gradient of {name}: {apart:.1e} of its largest")
        apart = abs(ours[step] - theirs) / theirs
        # The bound grows from one step's rounding to that of a hundred, linearly on a logarithmic scale.
        failed |= apart > 1e-5 * 100 ** (step / max(1, settings["steps"] - 1))
        worst = max(worst, apart)
        if step in (0, 1, 9, settings["steps"] // 2, settings["steps"] - 1):
            print(f"step {step + 1}: ours {ours[step]:.6f}, torch {theirs:.6f}, relative difference {apart:.1e}")
    saved = load_file(folder / "trained" / "model.safetensors")
    for name in (name for name in before if is_frozen(settings["freeze"], name)):
        failed |= not torch.equal(saved[name], before[name])
        print(f"{name} is frozen, and {'as it was' if torch.equal(saved[name], before[name]) else 'CHANGED'}")
    print(f"worst of {settings['steps']} steps: {worst:.1e}; {'FAILED' if failed else 'all within bounds'}")
    return failed


def waited(command, **arguments):
    """Returns the output and the peak of resident memory, in MB."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **arguments)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    assert status == 0, command
    return output, usage.ru_maxrss / 1e3


def time_torch(settings, checkpoint, attention):
    """Runs in a process of its own."""
    imported = int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1e3
    torch.set_num_threads(2)
    times, before = [], time.perf_counter()
    for _ in TorchRun(settings, checkpoint, checkpoint / "loader.json", attention).steps():
        times.append(time.perf_counter())
    seconds = [after - before for before, after in zip(times, times[1:])]  # from one backward pass to the next
    print(json.dumps({"median": statistics.median(seconds) * 1e3, "imported": imported}))


def time_both(settings, folder, rounds):
    threads = {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    run("pretrain", *options(settings, steps=0, out=folder / "fresh"))
    for number in range(rounds):
        command = [PRETRAIN, *options(settings, eval_every=10**9, save_every=10**9, out=folder / f"round-{number}")]
        output, memory = waited(command, env={**os.environ, **threads})
        ours = float(re.search(r"median ([\d.]+) ms", output)[1])
        report = f"ours {ours:.0f} ms a step, peak {memory:.0f} MB"
        for attention in ("eager", "sdpa"):
            torch_run = ["--torch", folder / "fresh" / "step-000000", "--attention", attention]
            command = [sys.executable, __file__, *torch_run, *options(settings)]
            output, memory = waited(command, env={**os.environ, **threads})
            theirs = json.loads(output.splitlines()[-1])
            report += f"; torch {attention} {theirs['median']:.0f} ms, peak {memory:.0f} MB"
        print(f"{report} ({theirs['imported']:.0f} MB of it after its imports)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="4 layers of 256, batches of 8 x 256, unless said otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--attention", help=argparse.SUPPRESS)
    kinds = dict(n_layer=2, n_head=4, n_embd=64, max_length=64, batch_size=8, steps=100, learning_rate=5e-4, warmup=10)
    kinds |= dict(weight_decay=0.1, grad_clip=1.0, dropout=0.0, seed=123, init_from="", freeze="")
    for name, value in kinds.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value))
    given = vars(parser.parse_args())
    if given["time"]:
        kinds |= TIMED | dict(steps=8)
    if given["init_from"]:
        kinds |= dict(n_layer=None, n_head=None, n_embd=None)
    settings = {name: value if given[name] is None else given[name] for name, value in kinds.items()}
    if given["torch"]:
        return time_torch(settings, given["torch"], given["attention"])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if given["time"]:
            return time_both(settings, folder, given["rounds"])
        return compare(settings, folder)


if __name__ == "__main__":
    sys.exit(main())
