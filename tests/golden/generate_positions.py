"""Makes `positions.safetensors`: results of transformers' position classes, and torch's gradients.

    pip install torch transformers safetensors
    python tests/golden/generate_positions.py

The sizes of a case (heads, widths, lengths, offsets) are drawn from the seed. To compare the library with other seeds
and more cases, without changing the golden file:

    python tests/golden/generate_positions.py --seed 7 --rounds 20 --out /tmp/positions.safetensors
    POSITIONS_GOLDEN=/tmp/positions.safetensors cargo test --release --features hub --test position golden
"""

import argparse
import json
import math
import pathlib
import random

import torch
import transformers
from safetensors.torch import save_file
from transformers import DebertaV2Config, LlamaConfig, T5Config, XLNetConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding
from transformers.models.xlnet import modeling_xlnet as xlnet

CASES, TENSORS = [], {}


def case(kind, tensors, **numbers):
    """Adds a case, with the gradients of tracked tensors for the loss `sum(out * weight)`."""
    index = len(CASES)
    CASES.append({"kind": kind, **numbers})
    if "weight" in tensors:
        (tensors["out"] * tensors["weight"]).sum().backward()
    for name, tensor in tensors.items():
        TENSORS[f"{index}.{name}"] = tensor.detach().clone().contiguous()
        if tensor.is_leaf and tensor.grad is not None:
            TENSORS[f"{index}.{name}.grad"] = tensor.grad.clone().contiguous()


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def lengths():
    """Draws the number of queries and keys, and the position of the first query: after a memory, or inside the keys."""
    t_q, t_k = random.randint(1, 9), random.randint(1, 12)
    return t_q, t_q + t_k, random.randint(0, t_k)


def sinusoidal():
    n, dim = random.randint(1, 40), random.randint(4, 24)
    weight = torch.empty(n, dim)
    create_sinusoidal_embeddings(n, dim, weight)
    case("sinusoidal", {"table": weight}, layout="interleaved")
    marian = MarianSinusoidalPositionalEmbedding(n, dim)
    case("sinusoidal", {"table": marian.create_weight()}, layout="halves")
    table = M2M100SinusoidalPositionalEmbedding.get_embedding(n, dim)
    case("sinusoidal", {"table": table}, layout="tensor2tensor")


SCALINGS = {
    "default": lambda: {},
    "linear": lambda: {"factor": random.uniform(1, 8)},
    "dynamic": lambda: {"factor": random.uniform(1, 8)},
    "yarn": lambda: {
        "factor": random.uniform(1, 40), "original_max_position_embeddings": random.choice([16, 64, 512]),
        **random.choice([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.25}, {"truncate": False},
                         {"mscale": 0.7, "mscale_all_dim": 1.3}]),
    },
    "llama3": lambda: {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": random.choice([2.0, 4.0]),
        "original_max_position_embeddings": random.choice([16, 64, 512]),
    },
}


def rotary():
    for rope_type, numbers in SCALINGS.items():
        b, h, h_k, t = random.randint(1, 3), random.randint(1, 5), random.randint(1, 3), random.randint(1, 9)
        d = random.choice([8, 16, 24, 64])
        theta = random.choice([10000.0, 500000.0])
        partial = random.choice([1.0, 0.5]) if rope_type != "default" else 1.0  # Llama's default ignores it
        parameters = {"rope_type": rope_type, "rope_theta": theta, "partial_rotary_factor": partial, **numbers()}
        n_positions = 1024
        config = LlamaConfig(hidden_size=h * d, num_attention_heads=h, head_dim=d, max_position_embeddings=n_positions,
                             rope_parameters=dict(parameters))
        rope = llama.LlamaRotaryEmbedding(config)
        far = 2000 if rope_type == "dynamic" else 200
        positions = torch.randint(0, far, (b, t))
        q, k = leaf(b, h, t, d), leaf(b, h_k, t, d)
        cos, sin = rope(q, positions)
        n = cos.shape[-1]
        pairs = cos[..., : n // 2], sin[..., : n // 2]
        for interleaved in [False, True]:
            q, k = leaf(b, h, t, d), leaf(b, h_k, t, d)
            if interleaved:
                turn = lambda x: gptj.apply_rotary_pos_emb(x[..., :n].transpose(1, 2), pairs[1], pairs[0]).transpose(1, 2)
                outs = [turn(q), turn(k)]
            else:
                outs = llama.apply_rotary_pos_emb(q[..., :n], k[..., :n], cos, sin)
            outs = [torch.cat([out, x[..., n:]], -1) for out, x in zip(outs, (q, k))]
            out = torch.cat([out.flatten() for out in outs])
            tensors = {"q": q, "k": k, "positions": positions, "cos": pairs[0], "sin": pairs[1],
                       "inv_freq": rope.inv_freq, "out": out, "weight": torch.randn_like(out)}
            case("rope", tensors, n_positions=n_positions, parameters=parameters, interleaved=interleaved)


def alibi():
    n_head, t = random.randint(1, 70), random.randint(1, 12)
    mpt = build_mpt_alibi_tensor(n_head, t)[:, 0]
    bloom = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), n_head, torch.float32)[:, 0, 1]
    case("alibi", {"mpt": mpt, "bloom_slopes": bloom})


def t5():
    n_head, bidirectional = random.randint(1, 5), random.random() < 0.5
    num_buckets = random.choice([4, 8, 31, 32, 64])
    max_distance = random.choice([33, 64, 128, 1000])
    config = T5Config(num_heads=n_head, d_kv=4, d_model=4 * n_head, is_decoder=not bidirectional,
                      relative_attention_num_buckets=num_buckets, relative_attention_max_distance=max_distance)
    attention = T5Attention(config, has_relative_attention_bias=True)
    torch.nn.init.normal_(attention.relative_attention_bias.weight)
    t_q, t_k, start = lengths()
    out = attention.compute_bias(t_q, t_k, past_seen_tokens=start)
    distances = torch.cat([torch.arange(-300, 301), torch.randint(-5000, 5000, (100,))])
    buckets = T5Attention._relative_position_bucket(distances, bidirectional, num_buckets, max_distance)
    tensors = {"table": attention.relative_attention_bias.weight, "out": out, "weight": torch.randn_like(out),
               "distances": distances, "buckets": buckets}
    case("t5", tensors, t_q=t_q, t_k=t_k, start=start, max_distance=max_distance, bidirectional=bidirectional)


def transformer_xl():
    b, h, d = random.randint(1, 3), random.randint(1, 4), random.choice([2, 4, 8])
    width = h * d if h * d % 2 == 0 else 2 * h * d
    t_q, memory = random.randint(1, 8), random.randint(0, 12)
    t_k = memory + t_q
    config = XLNetConfig(vocab_size=5, d_model=width, n_layer=1, n_head=h, d_inner=4, attn_type="bi") if width == h * d else None
    if config is None:
        return transformer_xl()
    model = xlnet.XLNetModel(config)
    q, k, r_net, u, v = leaf(b, h, t_q, d), leaf(b, h, t_k, d), leaf(h * d, width), leaf(h, d), leaf(h, d)
    r = model.relative_positional_encoding(t_q, t_k)[:, 0]
    r = (r @ r_net.T).view(-1, h, d)
    ac = torch.einsum("bnid,bnjd->bnij", q + u[:, None], k)
    bd = torch.einsum("bnid,jnd->bnij", q + v[:, None], r)
    bd = xlnet.XLNetRelativeAttention.rel_shift_bnij(bd, klen=t_k)
    out = (ac + bd) / math.sqrt(d)
    tensors = {"q": q, "k": k, "r_net": r_net, "u": u, "v": v, "out": out, "weight": torch.randn_like(out)}
    case("transformer-xl", tensors, start=memory)


class Module:
    pass


def shaw():
    b, h, d, t = random.randint(1, 3), random.randint(1, 4), random.choice([3, 8]), random.randint(2, 14)
    left, right = random.randint(0, 9), random.randint(0, 9)
    module = Module()
    module.left_max_position_embeddings, module.right_max_position_embeddings = left, right
    module.distance_embedding = torch.nn.Embedding(left + right + 1, d)
    module.scaling = 1 / math.sqrt(d)
    start = random.randint(0, t - 1)
    full = torch.randn(b, h, t, d)
    q, k, values, v = full[:, :, start:].clone().requires_grad_(), leaf(b, h, t, d), leaf(left + right + 1, d), leaf(b, h, t, d)
    whole = torch.cat([full[:, :, :start], q], 2)
    _, bias = _apply_relative_key_position_encoding(module, whole, k)
    scores = (whole @ k.transpose(-1, -2) * module.scaling + bias)[:, :, start:]
    weights = scores.softmax(-1)
    # transformers has keys only; values follow the paper's equation 3.
    distance = torch.arange(t)[None] - torch.arange(start, t)[:, None]
    vectors = values[distance.clamp(-left, right) + left]
    output = weights @ v + torch.einsum("bhij,ijd->bhid", weights, vectors)
    out = torch.cat([scores.flatten(), output.flatten()])
    tensors = {"q": q, "k": k, "v": v, "keys": module.distance_embedding.weight, "values": values, "scores": scores,
               "output": output, "out": out, "weight": torch.randn_like(out)}
    case("shaw", tensors, left=left, start=start)


def deberta_v2():
    b, h, d, t = random.randint(1, 3), random.randint(1, 4), random.choice([2, 8]), random.randint(1, 40)
    kinds = random.choice([["c2p", "p2c"], ["c2p", "p2c"], ["c2p"], ["p2c"]])
    buckets, furthest = random.choice([(-1, 7), (-1, 64), (8, 16), (8, 40), (16, 33), (4, 4)])
    config = DebertaV2Config(hidden_size=h * d, num_attention_heads=h, relative_attention=True, pos_att_type=kinds,
                             position_buckets=buckets, max_relative_positions=furthest, hidden_dropout_prob=0.0,
                             attention_probs_dropout_prob=0.0, vocab_size=5, num_hidden_layers=1, intermediate_size=4)
    module = deberta.DisentangledSelfAttention(config)
    rel = leaf(2 * (buckets if buckets > 0 else furthest), h * d)
    q, k = leaf(b, h, t, d), leaf(b, h, t, d)
    heads = lambda x: x.reshape(b * h, t, d)
    n_terms = 1 + len(kinds)
    scores = heads(q) @ heads(k).transpose(-1, -2) / deberta.scaled_size_sqrt(q, n_terms)
    scores = scores + module.disentangled_attention_bias(heads(q), heads(k), None, rel, n_terms)
    out = scores.view(b, h, t, t)
    tensors = {"q": q, "k": k, "rel": rel, "out": out, "weight": torch.randn_like(out)}
    for kind, name in [("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")]:
        if kind in kinds:
            linear = getattr(module, name)
            torch.nn.init.normal_(linear.bias)
            tensors |= {f"{kind}.weight": linear.weight, f"{kind}.bias": linear.bias}
    # The biases were drawn after the scores, which are computed again with them.
    scores = heads(q) @ heads(k).transpose(-1, -2) / deberta.scaled_size_sqrt(q, n_terms)
    scores = scores + module.disentangled_attention_bias(heads(q), heads(k), None, rel, n_terms)
    tensors["out"] = scores.view(b, h, t, t)
    distances = torch.cat([torch.arange(-700, 701), torch.randint(-9000, 9000, (100,))])
    if buckets > 0:
        log = deberta.make_log_bucket_position(distances, buckets, furthest).to(torch.long)
    else:
        log = distances
    tensors |= {"distances": distances, "buckets": log}
    case("deberta", tensors, position_buckets=buckets, max_relative_positions=furthest)


def interpolate():
    n, new, dim = random.randint(1, 12), random.randint(1, 30), random.randint(1, 5)
    table = torch.randn(n, dim)
    out = torch.nn.functional.interpolate(table.T[None], size=new, mode="linear", align_corners=True)[0].T
    case("interpolate", {"table": table, "resized": out})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "positions.safetensors")
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    for _ in range(args.rounds):
        for scheme in [sinusoidal, rotary, alibi, t5, transformer_xl, shaw, deberta_v2, interpolate]:
            scheme()
    metadata = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": str(args.seed),
                "command": "python tests/golden/generate_positions.py", "cases": json.dumps(CASES)}
    save_file(TENSORS, args.out, metadata)
    print(f"{args.out}: {len(CASES)} cases, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
