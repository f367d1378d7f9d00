#!/usr/bin/env python3
"""Writes loader.json: what PyTorch's DataLoader yields and draws, for loaders and loops chosen at random.

    python tests/golden/generate_data.py > tests/golden/loader.json

Needs torch 2.15. In the dataset of n samples, sample i is i. Each epoch has two entries:
`order`, the samples of its batches in order (if they are many, their `fnv` as little-endian i64), and
`draws`, one `random_()` of the loader's generator before the epoch, after each batch and after the epoch. They show which
draws the loader made, and when. A loop is left after `stop_after` batches.
"""
import json
import random

import torch
from torch.utils.data import DataLoader

SEED = 2026
N_CASES = 150
MANY = 40


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def case(choose):
    n = choose.choice([1, 2, 3, 5, 8, 10, 16, 31, 100, 1000])
    c = {
        "n": n,
        "batch_size": choose.choice([b for b in [1, 2, 3, 4, 8, n, n + 1] if n / b <= 40]),
        "shuffle": choose.random() < 0.85,
        "drop_last": choose.random() < 0.5,
        "explicit": choose.random() < 0.5,
        "seed": choose.choice([0, 1, 42, 123, 1337, 2**32 + 123, 2**63 - 1]),
        "epochs": [],
    }
    torch.manual_seed(c["seed"])
    generator = torch.Generator().manual_seed(c["seed"]) if c["explicit"] else None
    draw = lambda: int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    loader = DataLoader(
        range(n), c["batch_size"], shuffle=c["shuffle"], drop_last=c["drop_last"], generator=generator
    )
    for _ in range(3):
        stop_after = None if choose.random() < 0.5 or not len(loader) else choose.randint(1, len(loader))
        order, draws = [], [draw()]
        for number, batch in enumerate(loader, 1):
            order += batch.tolist()
            draws.append(draw())
            if number == stop_after:
                break
        draws.append(draw())
        epoch = {"stop_after": stop_after, "draws": draws}
        if len(order) > MANY:
            epoch |= {"n_samples": len(order), "fnv": fnv1a(b"".join(i.to_bytes(8, "little") for i in order))}
        else:
            epoch["order"] = order
        c["epochs"].append(epoch)
    return c


choose = random.Random(SEED)
cases = [case(choose) for _ in range(N_CASES)]
command = "python tests/golden/generate_data.py > tests/golden/loader.json"
header = {"torch": torch.__version__, "seed": SEED, "command": command}
print(json.dumps(header)[:-1] + ', "cases": [')
print(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
print("]}")
