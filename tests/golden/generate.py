"""Makes the golden files of this folder.

    pip install torch transformers safetensors
    python tests/golden/generate.py

Every file carries the torch version, the seed and the command in its metadata.
"""

import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
SEED = 123


def metadata(command):
    return {
        "format": "pt",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": str(SEED),
        "command": command,
    }


def hugging_face_checkpoints():
    """Writes a GPT-2 with transformers, in one file and in shards, and the results of its input stage."""
    torch.manual_seed(SEED)
    # All dimensions differ, so that a transposed read cannot pass.
    config = transformers.GPT2Config(vocab_size=97, n_positions=23, n_embd=12, n_layer=2, n_head=3)
    model = transformers.GPT2LMHeadModel(config).eval()
    for name, shard in [("gpt2_one_file", "1GB"), ("gpt2_sharded", "6KB")]:
        folder = GOLDEN / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size=shard)
        (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(0, 97, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[0, :3] = 0
    mask[2, :6] = 0
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)  # as in transformers' generate
    tensors = {"input_ids": ids, "attention_mask": mask}
    for dtype in [torch.float32, torch.bfloat16, torch.float16, torch.float64]:
        cast = transformers.GPT2LMHeadModel(config).eval()
        cast.load_state_dict(model.state_dict())
        cast = cast.to(dtype).transformer
        name = str(dtype).removeprefix("torch.")
        for what, where in [("start_0", torch.arange(7)), ("start_16", torch.arange(16, 23)), ("padded", positions)]:
            tensors[f"{what}.{name}"] = (cast.wte(ids) + cast.wpe(where)).detach().contiguous()
    save_file(tensors, GOLDEN / "input_layer.safetensors", metadata("python tests/golden/generate.py"))


def gradients():
    """Writes gradients of both tables on small integers, whose sums have the same bits in any order."""
    torch.manual_seed(SEED)
    vocab_size, n_positions, n_embd = 11, 6, 4
    wte = torch.randint(-3, 4, (vocab_size, n_embd)).float()
    wpe = torch.randint(-3, 4, (n_positions, n_embd)).float()
    ids = torch.tensor([[1, 1, 10, 0, 1], [0, 7, 7, 3, 10]])  # repeated within a row and across rows
    weight = torch.randint(-3, 4, (2, 5, n_embd)).float()
    head_weight = torch.randint(-3, 4, (2, 5, vocab_size)).float()
    hidden = torch.randint(-3, 4, (2, 5, n_embd)).float()
    tensors = {"wte": wte, "wpe": wpe, "input_ids": ids, "weight": weight, "head_weight": head_weight, "hidden": hidden}
    for name in ["input", "head", "both"]:
        table, positions = wte.clone().requires_grad_(), wpe.clone().requires_grad_()
        x = torch.nn.functional.embedding(ids, table) + torch.nn.functional.embedding(torch.arange(1, 6), positions)
        loss = {
            "input": lambda: (x * weight).sum(),
            "head": lambda: ((hidden @ table.T) * head_weight).sum(),
            "both": lambda: ((x @ table.T) * head_weight).sum(),
        }[name]()
        loss.backward()
        tensors[f"{name}.wte"] = table.grad
        if positions.grad is not None:
            tensors[f"{name}.wpe"] = positions.grad
    save_file(tensors, GOLDEN / "gradients.safetensors", metadata("python tests/golden/generate.py"))


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def seeded():
    """Writes tables, and dropout from the same stream, after torch.manual_seed."""
    tensors = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for what, (v, p, c), std in [("small", (6, 2, 3), 1.0), ("tail", (9, 5, 7), 0.02), ("blocks", (8, 4, 16), 1.0)]:
            torch.manual_seed(SEED)
            wte = torch.empty(v, c, dtype=dtype).normal_(0, std)
            wpe = torch.empty(p, c, dtype=dtype).normal_(0, std)
            x = wte[:p] + wpe
            tensors |= {f"{what}.{name}.wte": wte, f"{what}.{name}.wpe": wpe}
            for prob in [0.1, 0.5, 1.0]:
                tensors[f"{what}.{name}.dropout_{prob}"] = torch.nn.functional.dropout(x, prob, training=True)
    save_file(tensors, GOLDEN / "seeded.safetensors", metadata("python tests/golden/generate.py"))


def embedding_options():
    """Writes the results of padding_idx, max_norm and scale_grad_by_freq of torch.nn.Embedding."""
    torch.manual_seed(SEED)
    weight, ids = torch.randn(7, 5) * 2, torch.tensor([[1, 6, 1, 0], [3, 1, 6, 2]])
    grad = torch.randint(-3, 4, (2, 4, 5)).float() * 12  # divisible by every count below
    tensors = {"weight": weight, "input_ids": ids, "grad": grad}
    for name, options in {
        "padding": {"padding_idx": 1},
        "padding_negative": {"padding_idx": -1},
        "frequency": {"scale_grad_by_freq": True},
        "both": {"padding_idx": 6, "scale_grad_by_freq": True},
    }.items():
        table = weight.clone().requires_grad_()
        out = torch.nn.functional.embedding(ids, table, **options)
        out.backward(grad)
        tensors |= {f"{name}.out": out.detach(), f"{name}.grad": table.grad}
    for norm_type in [1.0, 2.0, 3.0, float("inf")]:
        table = weight.clone()
        out = torch.nn.functional.embedding(ids, table, max_norm=3.0, norm_type=norm_type)
        tensors |= {f"norm_{norm_type}.out": out, f"norm_{norm_type}.weight": table}
    torch.manual_seed(SEED)
    tensors["init_with_padding"] = torch.nn.Embedding(7, 5, padding_idx=-2).weight.detach()
    save_file(tensors, GOLDEN / "embedding_options.safetensors", metadata("python tests/golden/generate.py"))


if __name__ == "__main__":
    hugging_face_checkpoints()
    gradients()
    seeded()
    embedding_options()
