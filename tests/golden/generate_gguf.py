"""Makes `gguf/`: files of models that are no GPT-2, as llama.cpp's converter writes what they say of input and positions.

    pip install gguf
    python tests/golden/generate_gguf.py

Written with gguf 0.19.0. A token table of 3 rows is their only weight, beside factors of frequencies.
"""

from pathlib import Path

import gguf
import numpy as np

FOLDER = Path(__file__).parent / "gguf"
C, HEADS, CONTEXT = 16, 2, 4096
POSITIONS = np.arange(4 * C).reshape(4, C)


def write(name, architecture, tensors=(), **keys):
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", architecture)
    writer.add_context_length(len(dict(tensors).get("position_embd.weight", range(CONTEXT))))
    writer.add_embedding_length(C)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_token_list(["a", "b", "c"])
    for key, value in keys.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tensor("token_embd.weight", np.arange(3 * C, dtype=np.float32).reshape(3, C))
    for tensor, values in dict(tensors).items():
        writer.add_tensor(tensor, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    FOLDER.mkdir(exist_ok=True)
    kinds = gguf.RopeScalingType
    write("llama", "llama", rope_freq_base=500000.0, rope_dimension_count=8, key_length=8)
    write("linear", "qwen2", rope_freq_base=1e6, rope_scaling_type=kinds.LINEAR, rope_scaling_factor=4.0)
    write("yarn", "qwen3", rope_freq_base=1e6, key_length=16, rope_scaling_type=kinds.YARN, rope_scaling_factor=4.0,
          rope_scaling_orig_ctx_len=1024)
    write("part", "gptneox", rope_dimension_count=4)
    write("llama3", "llama", {"rope_freqs.weight": [1.0, 1.0, 2.5, 8.0]}, rope_freq_base=500000.0, rope_dimension_count=8)
    write("phi3", "phi3", {"rope_factors_short.weight": [1.0, 1.25, 1.5, 1.75], "rope_factors_long.weight": [2.0, 4.0, 8.0, 16.0]},
          rope_freq_base=10000.0, rope_dimension_count=8, rope_scaling_orig_ctx_len=1024, rope_scaling_attn_factors=1.1875)
    write("gemma3", "gemma3", rope_freq_base=1e6, key_length=8, sliding_window=512)
    write("granite", "granite", embedding_scale=12.0, logit_scale=8.0, rope_freq_base=10000.0)
    write("bloom", "bloom")
    write("mpt", "mpt", max_alibi_bias=8.0)
    write("mpt_16", "mpt", max_alibi_bias=16.0)
    write("mpt_learned", "mpt", {"position_embd.weight": POSITIONS}, max_alibi_bias=0.0)
    write("jais", "jais", max_alibi_bias=8.0)
    write("jina", "jina-bert-v2")
    write("gemma2", "gemma2", key_length=8)
    write("cohere2", "cohere2", logit_scale=0.25, sliding_window=512, rope_freq_base=50000.0)
    write("starcoder", "starcoder", {"position_embd.weight": POSITIONS})
    write("grok", "grok")
    write("smollm3", "smollm3", rope_freq_base=2e6)
    write("unknown", "jamba", rope_freq_base=10000.0)
    write("minicpm", "minicpm", rope_freq_base=10000.0)
    write("minicpm_plain", "minicpm", rope_freq_base=10000.0, embedding_scale=0.0, logit_scale=0.0)
    write("granite_nope", "granite", rope_freq_base=10000.0, rope_scaling_finetuned=False)
    write("olmo3", "olmo2", rope_freq_base=500000.0, sliding_window=1024, rope_scaling_type=kinds.YARN,
          rope_scaling_factor=8.0, rope_scaling_orig_ctx_len=1024)


if __name__ == "__main__":
    main()
