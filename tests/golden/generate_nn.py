"""Makes `nn.safetensors`: the pieces of a block in PyTorch, forward and backward, for `tests/training/nn.rs`.

    pip install torch safetensors
    python tests/golden/generate_nn.py

A case has its inputs `CASE.in.N`, its output `CASE.out`, the gradient of the output `CASE.out_grad`, and the gradients
`CASE.grad.N` of its inputs.
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
SEED = 123
# All dimensions differ, and fill neither a vector nor a task.
B, T, PAST, C, O, H, H_KV, D = 2, 33, 8, 7, 5, 6, 3, 4

tensors = {}


def case(name, f, *shapes, shift=0.0):
    inputs = [(torch.randn(shape) + shift).requires_grad_() for shape in shapes]
    out = f(*inputs)
    out_grad = torch.randn_like(out)
    out.backward(out_grad)
    tensors[f"{name}.out"], tensors[f"{name}.out_grad"] = out.detach(), out_grad
    for i, x in enumerate(inputs):
        tensors[f"{name}.in.{i}"], tensors[f"{name}.grad.{i}"] = x.detach(), x.grad


def sdpa(q, k, v, bias=None, **options):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True, **options)


def last_at_last(t_q, t_k):
    """The causal mask whose last query stands at the last key."""
    return torch.full((t_q, t_k), float("-inf")).triu(t_k - t_q + 1)


def padded():
    """A causal mask for a batch whose second row begins with padding: its first queries see nothing."""
    mask = last_at_last(T, T).repeat(B, 1, 1, 1)
    mask[1, :, :, :3] = float("-inf")
    return mask


def packed(qkv):
    q, k, v = qkv.split([H * D, H_KV * D, H_KV * D], dim=2)
    heads = lambda x: x.view(B, T, -1, D).transpose(1, 2)
    return sdpa(heads(q), heads(k), heads(v), is_causal=True).transpose(1, 2).reshape(B, T, H * D)


torch.manual_seed(SEED)
# A mean that is large beside the deviation, as in a residual stream.
case("layer_norm", lambda x, w, b: F.layer_norm(x, (C,), w, b, 1e-5), (B, T, C), (C,), (C,), shift=3.0)
case("layer_norm_without_bias", lambda x, w: F.layer_norm(x, (C,), w, None, 1e-2), (B, T, C), (C,))
case("rms_norm", lambda x, w: F.rms_norm(x, (C,), w, 1e-6), (B, T, C), (C,))
case("softmax", lambda x: F.softmax(x, 1), (B, T, C))
case("gelu", lambda x: F.gelu(4 * x), (B, T, C))
case("gelu_tanh", lambda x: F.gelu(4 * x, approximate="tanh"), (B, T, C))
case("linear", F.linear, (B, T, C), (O, C), (O,))
case("linear_without_bias", F.linear, (B, T, C), (O, C))
case("conv1d", lambda x, w, b: torch.addmm(b, x.view(-1, C), w).view(B, T, O), (B, T, C), (C, O), (O,))
q, k, cached = (B, H, T, D), (B, H_KV, T, D), (B, H_KV, T + PAST, D)
case("attention_causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), q, k, k)
case("attention_full", lambda q, k, v: sdpa(q, k, v, scale=0.3), q, k, k)
case("attention_cached", lambda q, k, v: sdpa(q, k, v, last_at_last(T, T + PAST)), q, cached, cached)
case("attention_bias", lambda q, k, v, b: sdpa(q, k, v, b + last_at_last(T, T)), q, k, k, (1, H, T, T))
case("attention_padded", lambda q, k, v: sdpa(q, k, v, padded()), q, k, k)
case("attention_packed", packed, (B, T, (H + 2 * H_KV) * D))

save_file(
    {name: tensor.contiguous() for name, tensor in tensors.items()},
    GOLDEN / "nn.safetensors",
    {"torch": torch.__version__, "seed": str(SEED), "command": "python tests/golden/generate_nn.py"},
)
