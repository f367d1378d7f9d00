"""llama.cpp's case of the bench, in the place of transformers'. Run by the example, behind `torch.py`, not by hand."""
import ctypes
import tempfile

import gguf
import llama_cpp

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
VERSION = llama_cpp.__version__
NAMES = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def write_gguf(path, n_embd, n_layer, n_head, vocab_size, dtype):
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(1024)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(4 * n_embd)
    writer.add_block_count(n_layer)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{i}>" for i in range(vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocab_size)
    writer.add_token_merges(["< 0"])
    kind = TYPES[dtype]

    def add(name, values, kind):
        values = values.float().contiguous().numpy()
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    drawn = gpt2_weights(n_embd, n_layer, vocab_size, DTYPES.get(dtype, torch.float32))
    add("token_embd.weight", drawn["wte"], kind)
    add("position_embd.weight", drawn["wpe"], TYPES["f32"])
    ones, zeros = torch.ones(n_embd), torch.zeros(4 * n_embd)
    for i in range(n_layer):
        for norm in ["attn_norm", "ffn_norm"]:
            add(f"blk.{i}.{norm}.weight", ones, TYPES["f32"])
            add(f"blk.{i}.{norm}.bias", zeros[:n_embd], TYPES["f32"])
        for ours, theirs in NAMES.items():
            weight = drawn[f"h.{i}.{ours}"].T
            add(f"blk.{i}.{theirs}.weight", weight, kind)
            add(f"blk.{i}.{theirs}.bias", zeros[: len(weight)], TYPES["f32"])
    add("output_norm.weight", ones, TYPES["f32"])
    add("output_norm.bias", zeros[:n_embd], TYPES["f32"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Decode:
    """llama.cpp: one token behind 64."""

    case = "decode"

    def __init__(self, n_embd, n_layer, n_head, vocab_size, dtype, **_):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/gpt2.gguf"
            write_gguf(path, n_embd, n_layer, n_head, vocab_size, dtype)
            options = dict(n_ctx=128, n_threads=N_THREADS, n_threads_batch=N_THREADS, use_mmap=False, verbose=False)
            self.model = llama_cpp.Llama(path, **options)
        ids = decoded_ids(1, vocab_size)[0].tolist()
        self.last = ids[64:]
        self.model.eval(ids[:64])

    def run(self):
        self.model.n_tokens = 64
        self.model.eval(self.last)
        logits = ctypes.addressof(llama_cpp.llama_get_logits(self.model.ctx).contents)
        logits = (ctypes.c_float * self.model.n_vocab()).from_address(logits)
        self.result = torch.frombuffer(logits, dtype=torch.float32)
        self.result.argmax()

    def samples(self):
        return [sampled(self.result[None], torch.zeros(N_SAMPLES, dtype=torch.int64))]
