#!/usr/bin/env python3
"""Times the loader and the seeded table against PyTorch. Run by hand, not by CI, on an otherwise idle machine.

    pip install torch
    cargo build --release --examples
    python tests/golden/time_with_torch.py [--rounds N]
"""
import argparse
import pathlib
import re
import statistics
import tempfile
import time

import torch
from torch.utils.data import DataLoader

from compare_with_torch import TEXT, GPTDatasetV1, run, token_ids


def number_before(unit, output):
    return float(re.search(rf"([0-9.]+) {unit}", output).group(1))


def time_loader(n_copies):
    """Measures shuffled batches of 8 x 1024 per second, with stride 1024; torch uses its better number of threads."""
    text = TEXT.read_text() * n_copies
    ids = token_ids(text)
    batches = DataLoader(GPTDatasetV1(ids, 1024, 1024), batch_size=8, shuffle=True, drop_last=True)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "text"
        file.write_text(text)
        n_epochs = max(1, 200_000 // len(batches))
        arguments = "--batch-size 8 --max-length 1024 --stride 1024 --shuffle --drop-last".split()
        output = run("dataloader", "--text-file", file, *arguments, "--epochs", n_epochs)
    ours = 1e3 * number_before("batches in this run", output) / number_before("ms", output)
    rates = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        n_batches, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1:
            n_batches += sum(1 for _ in batches)
        rates.append(n_batches / (time.perf_counter() - start))
    return f"loader over {len(ids)} tokens, 8 x 1024", ours, max(rates), "batches/s"


def time_init(vocab_size, n_embd):
    """Measures normal values per second, drawn into a new table; torch always uses one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(123)
    table = torch.empty(vocab_size, n_embd)
    start = time.perf_counter()
    torch.nn.init.normal_(table)
    theirs = time.perf_counter() - start
    ours = number_before("ms", run("init_table", "--vocab-size", vocab_size, "--n-embd", n_embd)) / 1e3
    return f"init_table {vocab_size} x {n_embd}", table.numel() / ours / 1e6, table.numel() / theirs / 1e6, "M numbers/s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    n_rounds = parser.parse_args().rounds
    cases = [lambda: time_init(50257, 768)] + [lambda n=n: time_loader(n) for n in (20, 120, 480)]
    for case in cases:
        rounds = []
        for _ in range(n_rounds):
            name, ours, theirs, unit = case()
            rounds.append(ours / theirs)
            print(f"{name}: ours {ours:.0f}, torch {torch.__version__} {theirs:.0f} {unit}: {ours / theirs:.1f} times", flush=True)
        print(f"{name}: median {statistics.median(rounds):.1f} times")


if __name__ == "__main__":
    main()
