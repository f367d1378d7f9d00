"""Writes loss.safetensors: cross_entropy(hidden_states @ wte.T) with both gradients, as PyTorch computes them.

    python tests/golden/generate_loss.py

The torch version, the seed and the command are in the file's metadata.
"""

import pathlib

import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
SEED = 123
# name: dims of the targets, C, V, scale of the table
CASES = {
    "gpt": ((3, 7), 12, 97, 1.0),
    "one_row": ((1,), 5, 33, 1.0),
    "one_column": ((6,), 1, 9, 1.0),
    "two_tokens": ((4, 2), 3, 2, 1.0),
    "blocks": ((11,), 2, 2100, 1.0),  # more than one block of the vocabulary
    "huge_logits": ((2, 5), 16, 40, 1e3),  # up to about 10^4: exp overflows
}


def case(tensors, name, hidden, table, targets, **options):
    hidden, table = hidden.clone().requires_grad_(), table.clone().requires_grad_()
    logits = hidden @ table.T
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), **options)
    loss.backward()
    tensors |= {f"{name}.loss": loss.detach(), f"{name}.hidden_grad": hidden.grad, f"{name}.wte_grad": table.grad}


def main():
    torch.manual_seed(SEED)
    tensors = {}
    for name, (dims, c, v, scale) in CASES.items():
        hidden, table = torch.randn(*dims, c), torch.randn(v, c) * scale
        targets = torch.randint(0, v, dims)
        tensors |= {f"{name}.hidden": hidden, f"{name}.wte": table, f"{name}.targets": targets}
        case(tensors, f"{name}.mean", hidden, table, targets)
        if name != "gpt":
            continue
        case(tensors, f"{name}.sum", hidden, table, targets, reduction="sum")
        case(tensors, f"{name}.float64", hidden.double(), table.double(), targets)
        # For half dtypes: exact products and sums, of which their results are a rounding.
        for dtype in [torch.bfloat16, torch.float16]:
            short = str(dtype).removeprefix("torch.")
            case(tensors, f"{name}.{short}", hidden.to(dtype).float(), table.to(dtype).float(), targets)
        ignored = targets.clone()
        ignored[0, :3] = -100
        ignored[2, 5] = -100
        tensors["gpt.ignored_targets"] = ignored
        case(tensors, f"{name}.ignored", hidden, table, ignored)
        case(tensors, f"{name}.ignored_sum", hidden, table, ignored, reduction="sum")
        case(tensors, f"{name}.ignore_index", hidden, table, targets, ignore_index=int(targets[1, 1]))
        case(tensors, f"{name}.all_ignored", hidden, table, torch.full_like(targets, -100))
        # The token table is used at both ends, and the loss has a factor.
        ids = torch.randint(0, v, dims)
        tied = table.clone().requires_grad_()
        weight = torch.randn(c, c)
        x = torch.tanh(torch.nn.functional.embedding(ids, tied) @ weight)
        loss = torch.nn.functional.cross_entropy((x @ tied.T).flatten(0, 1), targets.flatten())
        (loss * 3).backward()
        tensors |= {"gpt.input_ids": ids, "gpt.tied.weight": weight, "gpt.tied.loss": loss.detach(), "gpt.tied.wte_grad": tied.grad}
    # Confident predictions: losses of about 1e-11, which PyTorch itself computes as 0 in f32.
    table = torch.randn(40, 48)
    targets = torch.randint(0, 40, (9,))
    hidden = table[targets]
    assert torch.nn.functional.cross_entropy(hidden @ table.T, targets) == 0
    tensors |= {"sure.hidden": hidden, "sure.wte": table, "sure.targets": targets}
    case(tensors, "sure.mean", hidden.double(), table.double(), targets)
    # A head with a bias; losses of single targets, each with a factor of its own in what is differentiated.
    hidden, table, bias = torch.randn(3, 5, 8), torch.randn(31, 8), torch.randn(31)
    targets = torch.randint(0, 31, (3, 5))
    targets[1, 2:4] = -100
    factors = torch.randn(3, 5)
    tensors |= {"each.hidden": hidden, "each.wte": table, "each.bias": bias, "each.targets": targets, "each.factors": factors}
    for reduction in ["mean", "sum", "none"]:
        inputs = [tensor.clone().requires_grad_() for tensor in [hidden, table, bias]]
        logits = inputs[0] @ inputs[1].T + inputs[2]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        value = loss if reduction != "none" else (loss.view(3, 5) * factors).sum()
        value.backward()
        names = ["hidden_grad", "wte_grad", "bias_grad"]
        tensors |= {f"each.{reduction}.{name}": tensor.grad for name, tensor in zip(names, inputs)}
        tensors[f"each.{reduction}.loss"] = loss.detach().view(3, 5) if reduction == "none" else loss.detach()
    metadata = {"format": "pt", "torch": torch.__version__, "seed": str(SEED), "command": "python tests/golden/generate_loss.py"}
    save_file(tensors, GOLDEN / "loss.safetensors", metadata)
    (GOLDEN / "loss.safetensors").chmod(0o644)


main()
