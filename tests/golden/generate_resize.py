"""Makes resize.safetensors: vocabularies that transformers' resize_token_embeddings has grown, shrunk and padded.

    pip install torch transformers safetensors
    python tests/golden/generate_resize.py
"""

import pathlib

import torch
import transformers
from safetensors.torch import save_file

SEED = 123


def model(vocab_size, n_embd, dtype=torch.float32):
    config = transformers.GPT2Config(vocab_size=vocab_size, n_positions=5, n_embd=n_embd, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).to(dtype)
    # A mean and a covariance in which every row and column is different.
    mix = torch.eye(n_embd) + 0.3 * torch.randn(n_embd, n_embd)
    rows = torch.randn(vocab_size, n_embd) @ mix + 0.1 * torch.arange(n_embd)
    model.transformer.wte.weight.data = rows.to(dtype)
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    return model


def main():
    torch.manual_seed(SEED)
    tensors = {}
    # With more rows than columns, new rows are drawn. The seed is set just before transformers draws them.
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        grown = model(60, 12, dtype)
        tensors[f"drawn.{name}.old"] = grown.transformer.wte.weight.data.clone()
        draw = grown._init_added_embeddings_weights_with_mean

        def seeded(*args):
            torch.manual_seed(SEED)
            draw(*args)

        grown._init_added_embeddings_weights_with_mean = seeded
        grown.resize_token_embeddings(71)
        tensors[f"drawn.{name}.new"] = grown.transformer.wte.weight.data.clone()
        assert grown.config.vocab_size == 71 and grown.lm_head.weight.shape == (71, 12)
        if dtype == torch.float32:
            assert not torch.equal(tensors["drawn.f32.new"][60], tensors["drawn.f32.new"][61]), "no draw"
    # Otherwise new rows are the mean.
    for name, dtype in [("f32", torch.float32), ("f16", torch.float16)]:
        small = model(7, 12, dtype)
        tensors[f"mean.{name}.old"] = small.transformer.wte.weight.data.clone()
        small.resize_token_embeddings(7, pad_to_multiple_of=8)
        tensors[f"mean.{name}.new"] = small.transformer.wte.weight.data.clone()
        assert small.config.vocab_size == 8
    shrunk = model(60, 12)
    tensors["shrunk.old"] = shrunk.transformer.wte.weight.data.clone()
    shrunk.resize_token_embeddings(9)
    tensors["shrunk.new"] = shrunk.transformer.wte.weight.data.clone()
    metadata = {
        "format": "pt",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": str(SEED),
        "command": "python tests/golden/generate_resize.py",
    }
    save_file(tensors, pathlib.Path(__file__).parent / "resize.safetensors", metadata)
    print({name: tuple(tensor.shape) for name, tensor in tensors.items()})


main()
