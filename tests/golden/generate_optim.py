"""Makes `optim.safetensors`: the results of torch's optimizers after 100 steps.

    pip install torch safetensors
    python tests/golden/generate_optim.py

Gradients are not stored: both sides compute them exactly with `numbers`. The file has the torch version and the command
in its metadata. There is no seed, because nothing is random.
"""

import pathlib

import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
STEPS = 100


def numbers(n, seed, dtype=torch.float32):
    """Returns n multiples of 1/512 between -2 and 2, as in tests/training/optim.rs."""
    i = torch.arange(n, dtype=torch.int64)
    return (((i * 7919 + seed * 104729 + 12345) % 2003 - 1001).double() / 512).to(dtype)


def ids(n, seed, n_rows):
    """Returns n ids, some of them repeated, as in tests/training/optim.rs."""
    i = torch.arange(n, dtype=torch.int64)
    return (i * i * 31 + seed * 17 + i // 2) % n_rows


def state(optimizer, name, params):
    tensors = {}
    for number, param in enumerate(params):
        tensors[f"{name}.{number}.param"] = param.detach()
        if param in optimizer.state:
            tensors[f"{name}.{number}.exp_avg"] = optimizer.state[param]["exp_avg"]
            tensors[f"{name}.{number}.exp_avg_sq"] = optimizer.state[param]["exp_avg_sq"]
    return tensors


# (lr, betas, eps, weight_decay)
DENSE = {
    "default": (1e-3, (0.9, 0.999), 1e-8, 1e-2),
    "gpt": (6e-4, (0.9, 0.95), 1e-8, 0.1),
    "lerp_from_the_gradient": (1e-2, (0.3, 0.9), 1e-3, 0.0),
    "no_momentum": (1e-2, (0.0, 0.5), 1e-8, 0.5),
}
SHAPES = [(11, 7), (13,), (9, 1), (4, 16)]


def dense(name, dtype, options, max_norm=None, groups=False, schedule=False, skip=False):
    lr, betas, eps, weight_decay = options
    params = []
    for number, shape in enumerate(SHAPES):
        n = torch.Size(shape).numel()
        params.append(numbers(n, 1000 + number, dtype).view(shape).clone().requires_grad_())
    listed = [{"params": params}]
    if groups:
        listed = [
            {"params": params[:2]},
            {"params": params[2:], "lr": lr * 0.25, "weight_decay": 0.0, "betas": (0.8, 0.99), "eps": 1e-6},
        ]
    optimizer = torch.optim.AdamW(listed, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
    for t in range(STEPS):
        if schedule:
            for group in optimizer.param_groups:
                group["lr"] = lr * (t + 1) / STEPS
        for number, param in enumerate(params):
            skipped = skip and number == 1 and t % 3 == 0
            param.grad = None if skipped else numbers(param.numel(), t * 10 + number, dtype).view(param.shape).clone()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()
    return state(optimizer, name, params)


def rows(name, dtype, shape, options, padding_idx=None, empty=False):
    lr, betas, eps = options
    table = torch.nn.Embedding(*shape, padding_idx=padding_idx, sparse=True, dtype=dtype)
    with torch.no_grad():
        table.weight.copy_(numbers(shape[0] * shape[1], 1000, dtype).view(shape))
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=lr, betas=betas, eps=eps)
    for t in range(STEPS):
        optimizer.zero_grad()
        n = 0 if empty and t % 4 == 1 else 12
        table(ids(n, t, shape[0])).backward(numbers(n * shape[1], t, dtype).view(n, shape[1]))
        optimizer.step()
    return state(optimizer, name, [table.weight])


def layer(name):
    """Steps both tables of an input layer by rows: [3, 5] ids at positions 2 to 6."""
    wte, wpe = torch.nn.Embedding(19, 6, sparse=True), torch.nn.Embedding(8, 6, sparse=True)
    with torch.no_grad():
        wte.weight.copy_(numbers(19 * 6, 1000).view(19, 6))
        wpe.weight.copy_(numbers(8 * 6, 1001).view(8, 6))
    params = [wte.weight, wpe.weight]
    optimizer = torch.optim.SparseAdam(params, lr=1e-2)
    for t in range(STEPS):
        optimizer.zero_grad()
        x = wte(ids(15, t, 19).view(3, 5)) + wpe(torch.arange(2, 7))
        x.backward(numbers(3 * 5 * 6, t).view(3, 5, 6))
        optimizer.step()
    return state(optimizer, name, params)


def main():
    torch.set_num_threads(1)
    tensors = {}
    for name, options in DENSE.items():
        for dtype in [torch.float32, torch.float64]:
            kind = str(dtype).removeprefix("torch.")
            tensors |= dense(f"{name}.{kind}", dtype, options)
    for dtype in [torch.bfloat16, torch.float16]:
        tensors |= dense(f"gpt.{str(dtype).removeprefix('torch.')}", dtype, DENSE["gpt"])
    tensors |= dense("groups", torch.float32, DENSE["default"], groups=True)
    tensors |= dense("clipped", torch.float32, DENSE["default"], max_norm=0.5)
    tensors |= dense("clipped_groups", torch.float64, DENSE["gpt"], max_norm=20.0, groups=True)
    tensors |= dense("not_clipped", torch.float32, DENSE["default"], max_norm=1e6)
    tensors |= dense("scheduled", torch.float32, DENSE["gpt"], schedule=True)
    tensors |= dense("skipped", torch.float32, DENSE["default"], skip=True)
    for dtype in [torch.float32, torch.float64]:
        kind = str(dtype).removeprefix("torch.")
        tensors |= rows(f"rows.{kind}", dtype, (23, 5), (1e-3, (0.9, 0.999), 1e-8))
        tensors |= rows(f"rows_betas.{kind}", dtype, (7, 16), (1e-2, (0.5, 0.95), 1e-6))
    tensors |= rows("rows_padding", torch.float32, (9, 3), (1e-2, (0.9, 0.999), 1e-8), padding_idx=4)
    tensors |= rows("rows_empty", torch.float32, (9, 1), (1e-2, (0.9, 0.999), 1e-8), empty=True)
    tensors |= layer("layer")
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    command = "python tests/golden/generate_optim.py"
    metadata = {"format": "pt", "torch": torch.__version__, "seed": "none", "command": command}
    save_file(tensors, GOLDEN / "optim.safetensors", metadata)


if __name__ == "__main__":
    main()
