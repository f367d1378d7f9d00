#!/usr/bin/env python3
"""Writes blend.json: which sample of which corpus Megatron's rule draws, with weights divided by numpy's sum.

    python tests/golden/generate_blend.py > tests/golden/blend.json

Needs numpy 2 and torch 2.15. The rule is that of `build_blending_indices` and `build_exhaustive_blending_indices` in
Megatron-LM's `megatron/core/datasets/helpers.cpp`, written out here. `fnv` is of the corpus numbers as little-endian u16,
`weights_fnv` of the divided weights as little-endian f64. `shuffled` walks each corpus as DistributedSampler does.
"""
import json
import random
import struct

import numpy
import torch
from torch.utils.data import DistributedSampler

N_SAMPLES = 1000
SIZES = [1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 20, 23]
SIZES += [24, 31, 40, 64, 137, 300]


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def draw(weights, n_samples, sizes=None):
    taken = [0] * len(weights)
    drawn = []
    for sample in range(n_samples):
        x = max(float(sample), 1.0)
        best, largest = None, None
        for i, weight in enumerate(weights):
            error = weight * x - float(taken[i])
            if (sizes is None or taken[i] < sizes[i]) and (largest is None or error > largest):
                best, largest = i, error
        drawn.append((best, taken[best]))
        taken[best] += 1
    return drawn


def fnv_of(drawn):
    return fnv1a(b"".join(struct.pack("<H", i) for i, _ in drawn))


def main():
    choose = random.Random(2026)
    cases = []
    for n in SIZES:
        kind = choose.random()
        one = lambda: choose.choice(["1", "2", "5"]) if kind < 0.3 else f"{choose.uniform(0.001, 1) ** 2:.3f}"
        texts = [text if float(text) > 0 else "0.001" for text in (one() for _ in range(n))]
        weights = numpy.array([float(text) for text in texts], dtype=numpy.float64)
        weights = (weights / numpy.sum(weights)).tolist()
        drawn = draw(weights, N_SAMPLES)
        packed = b"".join(struct.pack("<d", weight) for weight in weights)
        cases.append({"weights": texts, "weights_fnv": fnv1a(packed), "fnv": fnv_of(drawn)})
    exhaustive = []
    for n in [1, 2, 2, 3, 5, 8, 13, 20]:
        sizes = [choose.randint(1, 60) for _ in range(n)]
        drawn = draw([size / float(sum(sizes)) for size in sizes], sum(sizes), sizes)
        exhaustive.append({"sizes": sizes, "fnv": fnv_of(drawn)})
    sizes, seed = [5, 7, 3], 123
    samplers = [DistributedSampler(range(n), num_replicas=1, rank=0, shuffle=True, seed=seed) for n in sizes]
    windows = []
    for i, nth in draw([0.5, 0.3, 0.2], 60):
        samplers[i].set_epoch(nth // sizes[i])
        windows.append([i, list(samplers[i])[nth % sizes[i]]])
    shuffled = {"sizes": sizes, "seed": seed, "weights": ["0.5", "0.3", "0.2"], "windows": windows}
    made_with = {"numpy": numpy.__version__, "torch": torch.__version__}
    # One case a line, for people and for diffs.
    lines = [json.dumps(made_with)[1:-1]]
    for name, value in [("weighted", cases), ("exhaustive", exhaustive), ("shuffled", [shuffled])]:
        rows = ",\n".join("  " + json.dumps(case, separators=(",", ":")) for case in value)
        lines.append(f'"{name}": [\n{rows}\n]')
    print("{\n" + ",\n".join(lines) + "\n}")


main()
