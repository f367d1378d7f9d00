"""Makes the golden files of `tests/examples/gpt2.rs`: small random GPT-2s and what transformers computes with them.

    pip install torch transformers safetensors
    python tests/golden/generate_gpt2.py              # tests/golden/gpt2_*.safetensors
    python tests/golden/generate_gpt2.py gpt2-124m F  # the folder F: a GPT-2 of 124M random weights, for measurements

A file is a checkpoint: weights under Hugging Face's names, and the config in the metadata under `gpt_input_config`, where
this crate looks for it. The results to compare with are called `golden.*`. Every file has the torch version, the seed and the
command in its metadata.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).parent
SEED = 123
# All dimensions differ, so that a transposed read cannot pass.
SMALL = {"vocab_size": 61, "n_positions": 83, "n_embd": 12, "n_layer": 2, "n_head": 3, "initializer_range": 0.3}
N_NEW = 64

# Models of other shapes or dtypes, each in its own file: name -> (changes to SMALL, dtype of the file).
MODELS = {
    "plain": ({}, torch.float32),
    "n_inner": ({"n_inner": 17, "n_head": 4}, torch.float32),
    "untied": ({"tie_word_embeddings": False}, torch.float32),
    "no_blocks": ({"n_layer": 0}, torch.float32),
    "bf16": ({}, torch.bfloat16),
    "f16": ({}, torch.float16),
}
# Other configs for the weights of `plain`, kept in its file.
VARIANTS = {
    "epsilon": {"layer_norm_epsilon": 0.03},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled": {"scale_attn_weights": False},
    "upcast": {"reorder_and_upcast_attn": True},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "quick_gelu": {"activation_function": "quick_gelu"},
}


def metadata(**more):
    return {
        "format": "pt",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": str(SEED),
        "command": "python tests/golden/generate_gpt2.py",
        **more,
    }


def model_of(changes):
    torch.manual_seed(SEED)
    no_dropout = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": None}
    config = transformers.GPT2Config(**{**SMALL, **no_dropout, **changes})
    config._attn_implementation = "eager"  # the only one that supports every flag
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # a new model's biases and norms are 0 and 1, which would hide a swap
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif ".ln_" in name:
                parameter.normal_(mean=1.0, std=0.1)
    return model


def config_json(model):
    return json.dumps(model.config.to_dict())


@torch.no_grad()
def greedy(model, ids, mask):
    """Generates greedily with transformers; refuses a seed with two nearly equal tokens."""
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=N_NEW,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    gap = min((best := logits.topk(2).values)[:, 0].sub(best[:, 1]).min().item() for logits in out.logits)
    assert gap > 1e-4, f"seed {SEED}: two tokens are {gap} apart: choose another"
    return out.sequences[:, ids.shape[1] :]


@torch.no_grad()
def sampled(model, ids, temperature, top_k):
    """Samples with transformers, and makes sure that the last bits of a logit could not change a token."""
    multinomial, closest = torch.multinomial, float("inf")

    def watched(probs, num_samples):
        nonlocal closest
        state = torch.get_rng_state()
        race = (probs / torch.empty_like(probs).exponential_(1)).topk(2, dim=-1).values
        closest = min(closest, (race[:, 0] / race[:, 1]).min().item())
        torch.set_rng_state(state)
        return multinomial(probs, num_samples=num_samples)

    torch.multinomial = watched
    torch.manual_seed(SEED)
    mask = torch.ones_like(ids)
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": 1.0, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=mask, max_new_tokens=N_NEW, do_sample=True, **chosen)
    torch.multinomial = multinomial
    assert closest > 1.0001, f"seed {SEED}: two tokens race within {closest}: choose another"
    return out[:, ids.shape[1] :]


def golden(name, changes, dtype):
    model = model_of(changes)
    stored = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del stored["lm_head.weight"]
    model.load_state_dict({key: tensor.float() for key, tensor in stored.items()}, strict=False)

    ids = torch.randint(0, model.config.vocab_size, (3, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    mask[2, :6] = 0
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    out = {"input_ids": ids}
    with torch.no_grad():
        out["logits"] = model(ids).logits
    more = {}
    if name in ["plain", "untied"]:
        # Every parameter's gradient; that of a tied `wte` is the sum of both uses.
        loss = model(ids, labels=ids).loss
        loss.backward()
        out |= {f"{key}.grad": parameter.grad for key, parameter in model.named_parameters()}
        out["loss"] = loss.detach()
    if name == "plain":
        out["attention_mask"] = mask
        with torch.no_grad():
            out["logits_padded"] = model(ids, attention_mask=mask, position_ids=positions).logits
        out["greedy"] = greedy(model, ids, torch.ones_like(mask))
        out["greedy_padded"] = greedy(model, ids, mask)
        out["sampled"] = sampled(model, ids[:1], 1.0, 0)
        out["sampled_cold_top_5"] = sampled(model, ids[:1], 0.7, 5)
        for variant, variant_changes in VARIANTS.items():
            other = model_of(variant_changes)
            other.load_state_dict(model.state_dict())
            with torch.no_grad():
                out[f"logits.{variant}"] = other(ids).logits
            more[f"config.{variant}"] = config_json(other)
    tensors = stored | {f"golden.{key}": tensor for key, tensor in out.items()}
    tensors = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    save_file(tensors, GOLDEN / f"gpt2_{name}.safetensors", metadata(gpt_input_config=config_json(model), **more))


def folders():
    """Writes the logits of the folders of `generate.py`, in one file and in shards."""
    model = transformers.GPT2LMHeadModel.from_pretrained(GOLDEN / "gpt2_one_file").eval()
    torch.manual_seed(SEED)
    ids = torch.randint(0, model.config.vocab_size, (2, 5))
    with torch.no_grad():
        tensors = {"input_ids": ids, "logits": model(ids).logits}
    save_file(tensors, GOLDEN / "gpt2_folders.safetensors", metadata())


if __name__ == "__main__":
    if sys.argv[1:2] == ["gpt2-124m"]:
        torch.manual_seed(SEED)
        transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(sys.argv[2])
    else:
        for name, (changes, dtype) in MODELS.items():
            golden(name, changes, dtype)
        folders()
