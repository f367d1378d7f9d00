#!/usr/bin/env python3
"""Writes rng.json: sequences of calls on PyTorch's global CPU generator, and digests of their results.

    python tests/golden/generate_rng.py > tests/golden/rng.json

Needs torch 2.15 on x86-64 with AVX2. Every value is written as text or as bits, so that no JSON reader can round it.
"""
import json
import random
import struct
import sys

import torch
from torch.utils.data import DataLoader

SEEDS = [0, 1, 42, 123, 1337, 2**32 + 123, 2**64 - 1]
SHAPE_SIZES = [1, 2, 5, 15, 16, 17, 31, 32, 100, 608, 624, 625, 1000, 4096, 4099, 5000]


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def f32_bits(values):
    return list(struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values)))


def draw(op, a):
    """Makes one call; returns its tensors, in order."""
    n = a.get("n", 0)
    x = {k: float(a[k]) for k in ("mean", "std", "lo", "hi", "p", "lambda") if k in a}
    if op in ("normal", "normal_bf16", "normal_f16", "normal_f64"):
        dtype = {"": torch.float32, "_bf16": torch.bfloat16, "_f16": torch.float16, "_f64": torch.float64}[op[6:]]
        return [torch.empty(n, dtype=dtype).normal_(x["mean"], x["std"])]
    if op in ("uniform_f32", "uniform_f64"):
        dtype = torch.float32 if op == "uniform_f32" else torch.float64
        return [torch.empty(n, dtype=dtype).uniform_(x["lo"], x["hi"])]
    if op == "u31":  # int32 random_() is one word without its top bit
        return [torch.empty(n, dtype=torch.int32).random_()]
    if op == "i63":
        return [torch.empty(n, dtype=torch.int64).random_()]
    if op == "randint":
        return [torch.randint(int(a["from"]), int(a["to"]), (n,))]
    if op == "randperm":
        return [torch.randperm(n)]
    if op == "bernoulli":
        return [torch.empty(n).bernoulli_(x["p"])]
    if op == "dropout":
        return [torch.nn.functional.dropout(torch.ones(n), x["p"])]
    if op == "exponential":
        return [torch.empty(n).exponential_(x["lambda"])]
    if op == "multinomial":
        weights = torch.tensor(list(struct.unpack(f"<{len(a['weights'])}f", struct.pack(f"<{len(a['weights'])}I", *a["weights"]))))
        return [torch.multinomial(weights, n, a["replacement"])]
    if op == "linear":
        layer = torch.nn.Linear(a["in_features"], a["out_features"])
        return [layer.weight, layer.bias]
    if op == "epoch":
        return [torch.cat(list(DataLoader(torch.arange(n), batch_size=3, shuffle=True)))]
    raise ValueError(op)


def case(seed, steps):
    torch.manual_seed(seed)
    for step in steps:
        out = [t.detach().contiguous() for t in draw(step["op"], step)]
        step["fnv"] = fnv1a(b"".join(bytes(t.view(torch.uint8).flatten().tolist()) for t in out if t.numel()))
    return {"seed": str(seed), "steps": steps, "state_fnv": fnv1a(bytes(torch.get_rng_state().tolist()))}


def random_step(r, max_n=2000):
    op = r.choice(
        "normal normal normal normal_bf16 normal_f16 normal_f64 uniform_f32 uniform_f64 u31 i63 randint randperm bernoulli "
        "dropout exponential multinomial linear epoch".split()
    )
    n = r.choice([r.randrange(1, 16), r.randrange(16, 200), 16 * r.randrange(1, 20), r.randrange(1, max_n)])
    step = {"op": op, "n": n}
    if op.startswith("normal"):
        mean, std = r.choice([(0, 1), (0, 0.02), (0.5, 0.02), (r.uniform(-5, 5), r.uniform(0, 5)), (1, 0)])
        step |= {"mean": repr(float(mean)), "std": repr(float(std))}
    elif op.startswith("uniform"):
        lo, hi = r.choice([(0, 1), (-0.5773502691896258, 0.5773502691896258), sorted((r.uniform(-9, 9), r.uniform(-9, 9))), (2, 2)])
        step |= {"lo": repr(float(lo)), "hi": repr(float(hi))}
    elif op == "randint":
        width = r.choice([1, 2, 10, 50257, 2**28 - 1, 2**28, 2**28 + 1, 2**32 - 1, 2**32, 2**40 + 7, 2**63 - 1])
        lo = r.choice([0, -5, -(2**62), r.randrange(-(2**63), 2**63 - 1 - width)])
        step |= {"from": str(lo), "to": str(min(lo + width, 2**63 - 1))}
    elif op in ("bernoulli", "dropout"):
        step["p"] = repr(float(r.choice([0, 0.1, 0.5, 0.9, 1, r.random()])))
    elif op == "exponential":
        step["lambda"] = repr(float(r.choice([1, 0.3, 2.5, r.uniform(0.01, 50)])))
    elif op == "multinomial":
        kind = r.randrange(3)
        weights = [[r.random(), r.expovariate(1) ** 4, float(r.randrange(4))][kind] for _ in range(r.randrange(1, 60))] + [1.0]
        step["weights"], step["replacement"] = f32_bits(weights), r.random() < 0.5
        n_nonzero = sum(w > 0 for w in weights)
        step["n"] = r.choice([1, n_nonzero, r.randrange(1, n_nonzero + 1)]) if not step["replacement"] else r.randrange(1, 40)
    elif op == "linear":
        del step["n"]
        step |= {"in_features": r.randrange(1, 60), "out_features": r.randrange(1, 40)}
    elif op == "epoch":
        step["n"] = r.randrange(1, 200)
    return step


def main(n_random=40, max_n=2000, seed=2026):
    normals = [("0.0", "1.0"), ("0.5", "0.02")]
    cases = [case(s, [{"op": op, "n": n, "mean": m, "std": d}]) for i, n in enumerate(SHAPE_SIZES) for m, d in normals
             for s in [SEEDS[i % len(SEEDS)]] for op in ("normal", "normal_bf16", "normal_f16", "normal_f64")]
    # Pairs of normal values that are split over calls: the cached second value must survive.
    cases += [case(s, [{"op": "normal", "n": n, "mean": "0.0", "std": "1.0"} for n in (5, 3, 1, 15, 16, 5, 2, 17, 1, 7, 1000, 4)])
              for s in SEEDS]
    cases += [case(s, []) for s in SEEDS]
    # Adjacent bounds: half of the values round up to the exclusive bound.
    cases.append(case(123, [{"op": "uniform_f32", "n": 50, "lo": "1.0", "hi": repr(1 + 2**-23)},
                            {"op": "uniform_f64", "n": 50, "lo": "1.0", "hi": repr(1 + 2**-52)}]))
    r = random.Random(seed)
    cases += [case(r.choice([*SEEDS, r.getrandbits(64)]), [random_step(r, max_n) for _ in range(r.randrange(1, 12))]) for _ in range(n_random)]
    header = {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability(), "seed": seed,
              "command": "python tests/golden/generate_rng.py > tests/golden/rng.json",
              "fnv": "FNV-1a, 64 bits, over the little-endian bytes of the result; `state_fnv` over torch.get_rng_state()"}
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    print(json.dumps(header)[:-1] + ', "cases": [\n' + lines + "\n]}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
