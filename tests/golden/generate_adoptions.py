"""Makes `adoptions.safetensors`: the models of `tests/training/adoptions` in PyTorch, with logits and all gradients.

    pip install torch safetensors
    python tests/golden/generate_adoptions.py

A model has its weights `MODEL.weight.NAME`, and the gradients `MODEL.grad.NAME` of the mean cross-entropy of the next
tokens; `input_ids` are the same for all.
"""

import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
SEED = 123
V, P, C, LAYERS, H, H_KV = 29, 11, 16, 1, 4, 2  # the `Sizes` of the tests
D = C // H
B, T = 3, 9

tensors = {}


class Model:
    """Weights that are drawn when their names are first used."""

    def __init__(self, name):
        self.name, self.weights = name, {}

    def get(self, name, *shape):
        if name not in self.weights:
            is_norm = "norm" in name or "ln_" in name
            drawn = 0.3 * torch.randn(shape) + (1.0 if is_norm and name.endswith("weight") else 0.0)
            self.weights[name] = drawn.requires_grad_()
        return self.weights[name]

    def linear(self, name, x, n_out, bias=True):
        weight = self.get(f"{name}.weight", n_out, x.shape[-1])
        return F.linear(x, weight, self.get(f"{name}.bias", n_out) if bias else None)

    def layer_norm(self, name, x, bias=True):
        weight = self.get(f"{name}.weight", C)
        return F.layer_norm(x, (C,), weight, self.get(f"{name}.bias", C) if bias else None, 1e-5)

    def rms_norm(self, name, x):
        return F.rms_norm(x, (C,), self.get(f"{name}.weight", C), 1e-5)


def heads(x):
    return x.view(B, T, -1, D).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).reshape(B, T, C)


def causal(q, k, v):
    return joined(F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True, enable_gqa=True))


def gelu_new(x):
    return F.gelu(x, approximate="tanh")


def book(m, ids):
    x = m.get("tok_emb.weight", V, C)[ids] + m.get("pos_emb.weight", P, C)[:T]
    for i in range(LAYERS):
        block = f"trf_blocks.{i}"
        h = m.layer_norm(f"{block}.norm1", x)
        q, k, v = (m.linear(f"{block}.att.W_{name}", h, C, bias=False) for name in ["query", "key", "value"])
        x = x + m.linear(f"{block}.att.out_proj", causal(q, k, v), C)
        h = m.linear(f"{block}.ff.layers.0", m.layer_norm(f"{block}.norm2", x), 4 * C)
        x = x + m.linear(f"{block}.ff.layers.2", gelu_new(h), C)
    return m.linear("out_head", m.layer_norm("final_norm", x), V, bias=False)


def gpt2_like(m, ids, n_kv_head):
    wte = m.get("transformer.wte.weight", V, C)
    x = wte[ids] + m.get("transformer.wpe.weight", P, C)[:T]
    for i in range(LAYERS):
        block = f"transformer.h.{i}"
        h = m.layer_norm(f"{block}.ln_1", x)
        qkv = m.linear(f"{block}.attn.c_attn", h, (H + 2 * n_kv_head) * D)
        x = x + m.linear(f"{block}.attn.c_proj", causal(*qkv.split([C, n_kv_head * D, n_kv_head * D], 2)), C)
        h = m.linear(f"{block}.mlp.c_fc", m.layer_norm(f"{block}.ln_2", x), 4 * C)
        x = x + m.linear(f"{block}.mlp.c_proj", gelu_new(h), C)
    return m.layer_norm("transformer.ln_f", x), wte


def mingpt(m, ids):
    return m.linear("lm_head", gpt2_like(m, ids, H)[0], V, bias=False)


def bigcode(m, ids):
    return F.linear(*gpt2_like(m, ids, 1))


def rotated(x):
    """Rotates pairs (i, i + D/2), as `apply_rotary_pos_emb` of transformers does."""
    x = heads(x)
    angles = torch.outer(torch.arange(T, dtype=torch.float32), 1.0 / 10000 ** (torch.arange(0, D, 2) / D))
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).transpose(1, 2)


def llama(m, ids):
    x = m.get("model.embed_tokens.weight", V, C)[ids]
    for i in range(LAYERS):
        block = f"model.layers.{i}"
        h = m.rms_norm(f"{block}.input_layernorm", x)
        sizes = {"q": C, "k": H_KV * D, "v": H_KV * D}
        q, k, v = (m.linear(f"{block}.self_attn.{name}_proj", h, n, bias=False) for name, n in sizes.items())
        x = x + m.linear(f"{block}.self_attn.o_proj", causal(rotated(q), rotated(k), v), C, bias=False)
        h = m.rms_norm(f"{block}.post_attention_layernorm", x)
        gate, up = (m.linear(f"{block}.mlp.{name}_proj", h, 2 * C, bias=False) for name in ["gate", "up"])
        x = x + m.linear(f"{block}.mlp.down_proj", F.silu(gate) * up, C, bias=False)
    return m.linear("lm_head", m.rms_norm("model.norm", x), V, bias=False)


def mpt(m, ids):
    wte = m.get("transformer.wte.weight", V, C)
    x = wte[ids]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    slopes = torch.tensor([2 ** (-8 * (h + 1) / H) for h in range(H)])
    bias = (-slopes[:, None, None] * distance).masked_fill(distance < 0, -math.inf)
    for i in range(LAYERS):
        block = f"transformer.blocks.{i}"
        qkv = m.linear(f"{block}.attn.Wqkv", m.layer_norm(f"{block}.norm_1", x, bias=False), 3 * C, bias=False)
        attended = F.scaled_dot_product_attention(*map(heads, qkv.chunk(3, 2)), attn_mask=bias)
        x = x + m.linear(f"{block}.attn.out_proj", joined(attended), C, bias=False)
        h = m.linear(f"{block}.ffn.up_proj", m.layer_norm(f"{block}.norm_2", x, bias=False), 4 * C, bias=False)
        x = x + m.linear(f"{block}.ffn.down_proj", F.gelu(h), C, bias=False)
    return F.linear(m.layer_norm("transformer.norm_f", x, bias=False), wte)


torch.manual_seed(SEED)
ids = torch.randint(0, V, (B, T + 1))
tensors["input_ids"] = ids
for forward in [book, mingpt, bigcode, llama, mpt]:
    model = Model(forward.__name__)
    logits = forward(model, ids[:, :T])
    F.cross_entropy(logits.reshape(B * T, V), ids[:, 1:].reshape(-1)).backward()
    tensors[f"{model.name}.logits"] = logits.detach()
    for name, weight in model.weights.items():
        tensors[f"{model.name}.weight.{name}"], tensors[f"{model.name}.grad.{name}"] = weight.detach(), weight.grad

save_file(
    {name: tensor.contiguous() for name, tensor in tensors.items()},
    GOLDEN / "adoptions.safetensors",
    {"torch": torch.__version__, "seed": str(SEED), "command": "python tests/golden/generate_adoptions.py"},
)
