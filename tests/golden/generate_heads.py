"""Writes heads/: checkpoints whose output head is not tied to the token table, or whose vocabulary is padded.

    pip install torch transformers
    python tests/golden/generate_heads.py

`expected.safetensors` has hidden states and what the models' own heads make of them. The torch version, the seed and
the command are in its metadata.
"""

import json
import pathlib
import shutil
import struct

import torch
import transformers
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

GOLDEN = pathlib.Path(__file__).parent
HEADS = GOLDEN / "heads"
SEED = 7


def padded_llmc(expected):
    """llm.c v3: 97 tokens in 128 rows, padding rows zero as train_gpt2.py writes them, real logits negative as GPT-2's."""
    v, padded, p, c, n_head = 97, 128, 16, 12, 3
    wte = torch.zeros(padded, c)
    wte[:v] = torch.randn(v, c) * 0.1 - 1.0
    wpe = torch.ones(p, c) * 4
    header = struct.pack("<8i", 20240326, 3, p, v, 0, n_head, c, padded).ljust(1024, b"\0")
    ln_f = torch.cat([torch.ones(c), torch.zeros(c)])
    (HEADS / "llmc_padded.bin").write_bytes(header + b"".join(x.numpy().tobytes() for x in [wte, wpe, ln_f]))
    ids, targets = torch.tensor([[5, 0, 96, 7]]), torch.tensor([[0, 96, 7, 3]])
    hidden = wte[ids] + wpe[:4]
    logits = (hidden @ wte.T)[..., :v]
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert logits.argmax(-1).tolist() == [[90, 90, 90, 90]] and f"{losses.mean():.4f}" == "4.8734"
    expected |= {"llmc.input_ids": ids, "llmc.target_ids": targets, "llmc.logits": logits.contiguous(), "llmc.losses": losses}


def by_transformers(expected, name, model):
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)  # biases, too
    model.save_pretrained(HEADS / name)
    (HEADS / name / "generation_config.json").unlink(missing_ok=True)
    hidden = torch.randn(2, 3, 8)
    logits = model.get_output_embeddings()(hidden).detach()
    expected |= {f"{name}.hidden": hidden, f"{name}.logits": logits}


def main():
    torch.manual_seed(SEED)
    shutil.rmtree(HEADS, ignore_errors=True)
    HEADS.mkdir()
    expected = {}
    padded_llmc(expected)
    gpt2 = transformers.GPT2Config(vocab_size=19, n_positions=6, n_embd=8, n_layer=0, n_head=2, tie_word_embeddings=False)
    by_transformers(expected, "gpt2", transformers.GPT2LMHeadModel(gpt2))
    # Neither file states `tie_word_embeddings`, of which the default is another one than GPT-2's.
    gptj = transformers.GPTJConfig(vocab_size=19, n_positions=6, n_embd=8, n_layer=0, n_head=2, rotary_dim=2)
    neox = transformers.GPTNeoXConfig(vocab_size=19, max_position_embeddings=6, hidden_size=8, num_hidden_layers=0,
                                      num_attention_heads=2, intermediate_size=8)
    for name, model in [("gptj", transformers.GPTJForCausalLM(gptj)), ("gpt_neox", transformers.GPTNeoXForCausalLM(neox))]:
        by_transformers(expected, name, model)
        path = HEADS / name / "config.json"
        config = json.loads(path.read_text())
        assert config.pop("tie_word_embeddings") is False
        path.write_text(json.dumps(config, indent=2) + "\n")
    # The book's model_and_optimizer.pth.
    book = {"tok_emb.weight": torch.randn(19, 8), "pos_emb.weight": torch.randn(6, 8), "out_head.weight": torch.randn(19, 8)}
    torch.save({"model_state_dict": book, "optimizer_state_dict": {}}, HEADS / "model_and_optimizer.pth")
    hidden = torch.randn(2, 3, 8)
    expected |= {"book.hidden": hidden, "book.logits": hidden @ book["out_head.weight"].T}
    metadata = {"format": "pt", "torch": torch.__version__, "transformers": transformers.__version__, "seed": str(SEED),
                "command": "python tests/golden/generate_heads.py"}
    save_file(expected, HEADS / "expected.safetensors", metadata)
    for path in HEADS.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


main()
