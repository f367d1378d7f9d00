"""Makes `configs.json`: what the models of transformers do with a `config.json`, in numbers.

    pip install torch transformers
    python tests/golden/generate_configs.py

A case is a configuration as files on the Hub have it. Of each type of layer it has the frequencies, what cosines and sines are
multiplied by, and products of rotated queries and keys; of models that scale their token rows, those rows. Default
configurations of classes have what is expected of them.
"""

import copy
import importlib
import inspect
import json
import pathlib
import re

import torch
import transformers
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES = {"vocab_size": 11, "num_hidden_layers": 1, "intermediate_size": 8}
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, **SIZES}


def llama(**keys):
    return {**LLAMA, "max_position_embeddings": 2048, **keys}


LONG = [1.0 + 0.5 * i for i in range(8)]
SHORT = [1.0 + 0.01 * i for i in range(8)]
YARN = {"rope_theta": 500000.0, "rope_type": "yarn", "factor": 64.0, "original_max_position_embeddings": 4096,
        "beta_slow": 1.0, "beta_fast": 64.0, "attention_factor": 1.0, "partial_rotary_factor": 0.5}

# Name, configuration, lengths of sequences whose frequencies are asked for.
ROTATIONS = [
    ("plain", llama(rope_theta=500000.0), [16]),
    ("no rope keys at all", llama(), [16]),
    ("no rope keys, mixtral's base", llama(model_type="mixtral", num_key_value_heads=2), [16]),
    ("original length beside yarn", llama(max_position_embeddings=131072, original_max_position_embeddings=4096,
     rope_theta=10000.0, rope_scaling={"rope_type": "yarn", "factor": 32.0}), [16]),
    ("original length beside llama3, another inside", llama(max_position_embeddings=131072,
     original_max_position_embeddings=8192, rope_theta=500000.0, rope_scaling={"factor": 8.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 4096, "rope_type": "llama3"}), [16]),
    ("factor of null", llama(max_position_embeddings=16384, rope_theta=10000.0, rope_scaling={"rope_type": "yarn",
     "factor": None, "original_max_position_embeddings": 4096}), [16]),
    ("beta of 0 is none", llama(max_position_embeddings=16384, rope_theta=10000.0, rope_scaling={"rope_type": "yarn",
     "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 0, "beta_slow": None}), [16]),
    ("longrope", llama(max_position_embeddings=131072, original_max_position_embeddings=64, rope_theta=10000.0,
     rope_scaling={"type": "longrope", "short_factor": SHORT, "long_factor": LONG}), [16, 64, 65, 200]),
    ("longrope with a factor", llama(max_position_embeddings=4096, rope_parameters={"rope_type": "longrope",
     "rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG, "factor": 8.0,
     "original_max_position_embeddings": 32}), [32, 33]),
    ("su of phi3", llama(model_type="phi3", pad_token_id=0, max_position_embeddings=131072,
     original_max_position_embeddings=64, rope_theta=10000.0, rope_scaling={"type": "su", "short_factor": SHORT, "long_factor": LONG,
     "original_max_position_embeddings": 64}), [16, 65]),
    ("proportional", llama(rope_parameters={"rope_type": "proportional", "rope_theta": 10000.0,
     "partial_rotary_factor": 0.25}), [16]),
    ("dynamic", llama(max_position_embeddings=64, rope_theta=10000.0, rope_scaling={"type": "dynamic", "factor": 2.0}),
     [16, 64, 65, 200]),
    ("head_dim", llama(model_type="mistral", head_dim=8, num_key_value_heads=2, rope_theta=1000000.0), [16]),
    ("rotary_pct", {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, **SIZES, "rotary_pct": 0.5,
     "max_position_embeddings": 2048, "rotary_emb_base": 500}, [16]),
    ("gpt_neox's own part", {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, **SIZES,
     "max_position_embeddings": 2048}, [16]),
    ("phi's own part", llama(model_type="phi"), [16]),
    ("rotary_dim", {"model_type": "gptj", "vocab_size": 11, "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 2048,
     "rotary": True, "rotary_dim": 8}, [16]),
    ("cohere's neighbours", llama(model_type="cohere"), [16]),
    ("glm's neighbours and part", llama(model_type="glm", head_dim=16, num_key_value_heads=2), [16]),
    ("deepseek's rotated part", {"model_type": "deepseek_v3", "hidden_size": 64, "num_attention_heads": 4, **SIZES,
     "max_position_embeddings": 2048, "qk_rope_head_dim": 8, "rope_theta": 10000.0}, [16]),
    ("by layer type", {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, **SIZES,
     "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 32768,
     "rope_parameters": {"full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}, [16]),
    ("by layer type, before version 5", {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4,
     "head_dim": 16, **SIZES, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
     "max_position_embeddings": 32768, "rope_theta": 1000000.0, "rope_local_base_freq": 5000.0,
     "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, [16]),
    ("by layer type, one with yarn and half a head", {"model_type": "laguna", "hidden_size": 64, "head_dim": 16,
     "num_attention_heads": 4, "num_key_value_heads": 2, **SIZES, "num_hidden_layers": 2,
     "layer_types": ["full_attention", "sliding_attention"], "max_position_embeddings": 131072,
     "rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0,
                                                                      "partial_rotary_factor": 1.0}}}, [16]),
]
SCALED = [
    ("gemma", llama(model_type="gemma", head_dim=16)),
    ("gemma3_text", llama(model_type="gemma3_text", head_dim=16)),
    ("granite", llama(model_type="granite", embedding_multiplier=12.3)),
]

# Default configurations, by hand from the classes: the positions, with the base, the part and the pairs of rotations; the
# factor of token rows where there is one; and the key for which a head, or the file, is refused.
DEFAULTS = [
    ("gpt2", {}, "learned", None, None),
    ("gpt_neo", {"attention_types": [[["global", "local"], 2]]}, "learned", None, None),
    ("gpt_neox", {}, "rope 10000 of 0.25", None, None),
    ("gptj", {}, "rope 10000 of 64 neighbours", None, None),
    ("opt", {}, "learned", None, None),
    ("bloom", {}, "alibi", None, None),
    ("falcon", {}, "rope 10000", None, None),
    ("falcon", {"alibi": True}, "alibi", None, None),
    ("mpt", {}, "alibi", None, None),
    ("llama", {}, "rope 10000", None, None),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
     "rope 500000 llama3", None, None),
    ("mistral", {}, "rope 10000", None, None),
    ("qwen2", {}, "rope 10000", None, None),
    ("qwen3", {}, "rope 10000", None, None),
    ("gemma", {}, "rope 10000", "root-in-d-type", None),
    ("gemma2", {}, "rope 10000", "root-in-d-type", "final_logit_softcapping"),
    ("gemma3_text", {}, "full_attention: rope 1000000, sliding_attention: rope 10000", "root-in-d-type", None),
    ("phi", {}, "rope 10000 of 0.5", None, None),
    ("phi3", {}, "rope 10000", None, None),
    ("smollm3", {}, "no_rope: none, rope: rope 2000000", None, None),
    ("llama4_text", {}, "no_rope: none, rope: rope 500000 neighbours", None, None),
    ("cohere", {}, "rope 500000 neighbours", None, "logit_scale"),
    ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 8.0}, "rope 10000", {"factor": 12.0}, "logits_scaling"),
    ("bert", {}, "learned", None, None),
    ("roberta", {}, "learned", None, None),
    ("esm", {"vocab_size": 33}, "learned", None, None),
    ("deberta", {}, "learned", None, None),
    ("deberta", {"relative_attention": True}, None, None, "relative_attention"),
    ("xlnet", {}, None, None, "position_embedding_type"),
    ("t5", {}, None, None, "position_embedding_type"),
    ("nanochat", {}, None, None, "model_type"),
]
# A model whose class is not one of transformers' own, by its file.
MINICPM = llama(model_type="minicpm", scale_emb=12, dim_model_base=256, scale_depth=1.4, rope_theta=10000.0)


def numbers(tensor):
    """The elements, with as few digits as f32 needs."""
    return [float(str(number)) for number in tensor.detach().float().flatten().numpy()]


def config_of(keys):
    return CONFIG_MAPPING[keys["model_type"]].from_dict(copy.deepcopy(keys))


def module_of(config):
    return importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))


def turned(module, x, cos, sin):
    """Rotates `[1, H, T, D]` as the module's attention does."""
    if hasattr(module, "create_sinusoidal_positions"):  # GPT-J: [B, T, H, D]
        n = 2 * cos.shape[-1]
        rotated = module.apply_rotary_pos_emb(x[..., :n].transpose(1, 2), sin, cos).transpose(1, 2)
        return torch.cat([rotated, x[..., n:]], -1)
    turn = getattr(module, "apply_rotary_pos_emb_interleave", None) or module.apply_rotary_pos_emb
    n = cos.shape[-1]
    if "rotary_dim" in inspect.getsource(turn):
        return turn(x, x, cos, sin)[0]
    return torch.cat([turn(x[..., :n], x[..., :n], cos, sin)[0], x[..., n:]], -1)


def rotation(keys, lengths):
    config = config_of(keys)
    module = module_of(config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    types = config.rope_parameters if keys.get("layer_types") else {"": None}
    found = {}
    for layer_type in types:
        found[layer_type] = []
        for length in lengths:
            torch.manual_seed(length)
            q = torch.randn(1, 1, 2, head_dim)
            positions = torch.tensor([[3, length - 1]])
            if hasattr(module, "create_sinusoidal_positions"):
                table = module.create_sinusoidal_positions(length, config.rotary_dim)
                sin, cos = torch.chunk(table[positions[0]][None], 2, -1)
                inv_freq, scaling = 1.0 / (10000 ** (torch.arange(0, config.rotary_dim, 2) / config.rotary_dim)), 1.0
            else:
                name = next(name for name in dir(module) if re.fullmatch(r".*(?<!Vision)RotaryEmbedding", name))
                rope = getattr(module, name)(config)
                args = [layer_type] if layer_type else []
                cos, sin = rope(q, positions, *args)
                prefix = f"{layer_type}_" if layer_type else ""
                inv_freq, scaling = getattr(rope, f"{prefix}inv_freq"), getattr(rope, f"{prefix}attention_scaling")
            plain, q = q, turned(module, q, cos, sin)[0, 0]
            # Which of the two comes first in a pair is the attention's business: the products are what counts.
            found[layer_type].append({"length": length, "inv_freq": numbers(inv_freq), "scaling": float(scaling),
                                      "q": numbers(plain), "products": numbers(q @ q.T)})
    return found


def rows(keys, dtype):
    """What enters the first block, of the tokens 0 to 2."""
    torch.manual_seed(1)
    config = config_of(keys)
    model = AutoModel.from_config(config).to(dtype).eval()
    table = model.get_input_embeddings().weight
    seen = []
    model.layers[0].register_forward_pre_hook(lambda module, args, kwargs: seen.append((*args, kwargs.get("hidden_states"))[0]),
                                              with_kwargs=True)
    model(torch.arange(3)[None])
    return {"table": numbers(table[:3]), "rows": numbers(seen[0][0])}


def default(name, keys):
    """The file of the class, with four layers, without the keys that every class has."""
    config = json.loads(CONFIG_MAPPING[name](num_hidden_layers=4, **keys).to_json_string(use_diff=True))
    dull = ("_id", "attention_dropout", "transformers_version", "use_cache", "initializer_range", "layer_norm_eps")
    return {key: value for key, value in config.items() if not key.endswith(dull)}


def main():
    torch.set_num_threads(1)
    cases = [{"name": name, "config": keys, "layers": rotation(keys, lengths)} for name, keys, lengths in ROTATIONS]
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    scaled = []
    with torch.no_grad():
        for name, keys in SCALED:
            keys = {**keys, "hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6}
            scaled.append({"name": name, "config": keys, **{name: rows(keys, dtype) for name, dtype in dtypes.items()}})
    defaults = [(default(name, keys), *expected) for name, keys, *expected in DEFAULTS]
    defaults.append((MINICPM, "rope 10000", {"factor": 12.0}, "dim_model_base"))
    golden = {"torch": torch.__version__, "transformers": transformers.__version__,
              "command": "python tests/golden/generate_configs.py", "rotations": cases, "scaled": scaled,
              "defaults": [{"config": config, "positions": positions, "scale": scale, "refused": refused}
                           for config, positions, scale, refused in defaults]}
    path = pathlib.Path(__file__).parent / "configs.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{path}: {len(cases) + len(scaled)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
