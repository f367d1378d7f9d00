"""Makes `perplexity.json`: perplexities of texts by windows in transformers, for `tests/examples/generation.rs`.

    pip install torch transformers tokenizers
    python tests/golden/generate_perplexity.py

The model is `weights/tiny-gpt2`, a text the first bytes of `examples/data/genesis.txt`. The windows are those of Hugging
Face's guide "Perplexity of fixed-length models". The losses are computed in f64 from transformers' logits: for a single
token the loss that it returns, in f32, is up to 4e-5 off, and the mean over these texts the same to 1e-5. `perplexity` is exp of the mean over all targets, `guide` weighs each
window's mean as the guide does: by the labels that count less one.
"""

import json
import math
import pathlib

import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).parents[2]
GPT2 = ROOT / "weights" / "gpt2-tokenizer"

tokenizer = tokenizers.ByteLevelBPETokenizer(str(GPT2 / "encoder.json"), str(GPT2 / "vocab.bpe"))
genesis = (ROOT / "examples" / "data" / "genesis.txt").read_bytes()
# The file is in f16, and so would be the computation.
model = transformers.GPT2LMHeadModel.from_pretrained(ROOT / "weights" / "tiny-gpt2", dtype=torch.float32).eval()
length = model.config.n_positions


def n_bytes_of(n_tokens):
    start = tokenizer.encode(genesis[: 10 * n_tokens].decode()).ids[:n_tokens]
    return len(tokenizer.decode(start).encode())


def perplexity(n_bytes, stride):
    ids = torch.tensor([tokenizer.encode(genesis[:n_bytes].decode()).ids])
    n_tokens = ids.shape[1]
    sums, counts, done = [0.0, 0.0], [0, 0], 0
    for begin in range(0, n_tokens, stride):
        end = min(begin + length, n_tokens)
        window, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : max(done - begin, 0)] = -100
        # The first token of a window is no target, whatever its label.
        n_targets = (labels[:, 1:] != -100).sum().item()
        if n_targets > 0:
            with torch.no_grad():
                logits = model(window).logits[0, :-1].double()
            loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:]).item()
            for i, n in enumerate((n_targets, (labels != -100).sum().item() - 1)):
                sums[i] += loss * n
                counts[i] += n
        done = end
        if end == n_tokens:
            break
    case = {"n_bytes": n_bytes, "n_tokens": n_tokens, "stride": stride, "n_predicted": counts[0]}
    means = [total / n for total, n in zip(sums, counts)]
    return case | {"mean_loss": means[0], "perplexity": math.exp(means[0]), "guide": math.exp(means[1])}


cases = [(2500, stride) for stride in (7, 32, 50, 64, 127, 128)]
cases += [(6000, 64), (700, 1), (300, 64), (n_bytes_of(128), 128), (n_bytes_of(129), 128), (n_bytes_of(2), 64)]
golden = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "perplexities": [perplexity(*case) for case in cases],
}
(ROOT / "tests" / "golden" / "perplexity.json").write_text(json.dumps(golden, indent=1) + "\n")
