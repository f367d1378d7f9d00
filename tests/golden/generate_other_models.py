"""Makes tests/golden/other_models/: small random models that are not GPT-2, and what enters their first block.

    pip install torch transformers safetensors
    python tests/golden/generate_other_models.py

A folder holds `config.json` and `model.safetensors` as transformers writes them. `expected.safetensors` has `input_ids`
and for every folder `NAME.sum`, the sum of token and position rows, and `NAME.hidden_states`, what enters the first
block (with BERT's token types and normalization). Written with torch 2.15.0 and transformers 5.24.0.
"""

import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "other_models"
SEED = 123
V, C = 11, 4
BERT = {"vocab_size": V, "hidden_size": C, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 3,
        "type_vocab_size": 2, "initializer_range": 0.5}
# Name -> class, configuration, and the modules: token table, position table, first block; and the row of position 0.
MODELS = {
    "opt": (
        transformers.OPTForCausalLM,
        transformers.OPTConfig(vocab_size=V, hidden_size=C, word_embed_proj_dim=C, num_hidden_layers=1, ffn_dim=3,
                               num_attention_heads=2, max_position_embeddings=7, init_std=0.5, dropout=0.0),
        ("model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.layers.0"), 2),
    "openai_gpt": (
        transformers.OpenAIGPTLMHeadModel,
        transformers.OpenAIGPTConfig(vocab_size=V, n_positions=7, n_embd=C, n_layer=1, n_head=2, initializer_range=0.5),
        ("transformer.tokens_embed", "transformer.positions_embed", "transformer.h.0"), 0),
    "bert": (
        transformers.BertModel, transformers.BertConfig(max_position_embeddings=7, **BERT),
        ("embeddings.word_embeddings", "embeddings.position_embeddings", "encoder.layer.0"), 0),
    "roberta": (
        transformers.RobertaModel, transformers.RobertaConfig(max_position_embeddings=9, pad_token_id=1, **BERT),
        ("embeddings.word_embeddings", "embeddings.position_embeddings", "encoder.layer.0"), 2),
    "albert": (  # its tables are narrower than its blocks
        transformers.AlbertModel,
        transformers.AlbertConfig(max_position_embeddings=7, embedding_size=C, **BERT | {"hidden_size": 6}),
        ("embeddings.word_embeddings", "embeddings.position_embeddings", "encoder"), 0),
}


def main() -> None:
    input_ids = torch.tensor([[3, 10, 2, 7, 7], [9, 4, 5, 6, 8]])  # without the padding of any of them
    expected = {"input_ids": input_ids}
    for name, (model_class, config, (wte, wpe, block), first_row) in MODELS.items():
        torch.manual_seed(SEED)
        model = model_class(config).eval()
        for parameter in model.parameters():  # a norm of ones and zeros could be left out unseen
            torch.nn.init.normal_(parameter, std=0.5)
        entered = []
        model.get_submodule(block).register_forward_pre_hook(
            lambda _, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
        with torch.no_grad():
            model(input_ids)
        positions = torch.arange(input_ids.shape[1]) + first_row
        total = model.get_submodule(wte).weight[input_ids] + model.get_submodule(wpe).weight[positions]
        if name in ("opt", "openai_gpt"):
            assert torch.equal(total, entered[0]), name  # these models add nothing else
        expected[f"{name}.sum"], expected[f"{name}.hidden_states"] = total.detach(), entered[0]
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        model.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
    command = "python tests/golden/generate_other_models.py"
    metadata = {"torch": torch.__version__, "seed": str(SEED), "command": command}
    save_file(expected, FOLDER / "expected.safetensors", metadata)


if __name__ == "__main__":
    main()
