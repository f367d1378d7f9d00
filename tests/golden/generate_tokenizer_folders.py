"""Makes tokenizer_folders.json: folders as transformers and OpenAI write them, and the ids that transformers reads.

    pip install transformers
    python tests/golden/generate_tokenizer_folders.py

The tokens and merges are those of tokenizer/byte_level.json.
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

GOLDEN = pathlib.Path(__file__).parent
BYTE_LEVEL = json.loads((GOLDEN / "tokenizer" / "byte_level.json").read_text(encoding="utf-8"))
VOCAB, MERGES = BYTE_LEVEL["model"]["vocab"], [" ".join(merge) for merge in BYTE_LEVEL["model"]["merges"]]
TEXTS = [
    "", "the", " the", "In the beginning", "a<|endoftext|>b", "x [PAD] y", "<|begin|>the [X]", "a  <strip> b", "é [SEP]",
    "the</s>the", "\n\nthe [MASK]the", "[NEW][NEW] [newer]",
]  # fmt: skip


def flags(content, **options):
    plain = {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {**plain, "special": False, **options}


GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
# By name: the files beside vocab.json and merges.txt.
FOLDERS = {
    "alone": {},
    "config": {"tokenizer_config.json": {**GPT2, "model_max_length": 1024, "add_prefix_space": False, "errors": "replace"}},
    "prefix space": {"tokenizer_config.json": {**GPT2, "add_prefix_space": True}},
    "added": {
        "added_tokens.json": {"[PAD]": 400, "[X]": 401},
        "special_tokens_map.json": {"bos_token": "<|endoftext|>", "pad_token": "[PAD]"},
    },
    "decoder": {
        "tokenizer_config.json": {
            **GPT2,
            "added_tokens_decoder": {
                "0": flags("<|endoftext|>", normalized=True, special=True),
                "400": flags("[PAD]", lstrip=True, special=True),
                "401": flags("<strip>", lstrip=True, rstrip=True),
            },
            "pad_token": "[PAD]",
        }
    },
    "special tokens without ids": {
        "tokenizer_config.json": {**GPT2, "sep_token": "[SEP]", "mask_token": {"__type": "AddedToken", **flags("[MASK]", lstrip=True, special=True)}},
        "special_tokens_map.json": {"pad_token": "[PAD]", "eos_token": "<|begin|>"},
    },
    "begin": {"tokenizer_config.json": {**GPT2, "add_bos_token": True, "bos_token": "<|begin|>"}},
    "begin by default": {"tokenizer_config.json": {**GPT2, "add_bos_token": True}},
    "both ends": {
        "tokenizer_config.json": {**GPT2, "add_bos_token": True, "add_eos_token": True, "bos_token": "<|begin|>"},
        "special_tokens_map.json": {"eos_token": {**flags("</s>", normalized=True)}},
    },
    "special tokens as text": {"tokenizer_config.json": {**GPT2, "split_special_tokens": True}},
    "more": {"special_tokens_map.json": {"extra_special_tokens": ["[NEW]", {k: v for k, v in flags("[newer]", lstrip=True).items() if k != "special"}]}},
}


def cases(tokenizer):
    return [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]


def main():
    folders = []
    for name, others in FOLDERS.items():
        files = {"vocab.json": json.dumps(VOCAB), "merges.txt": "\n".join(["#version: 0.2", *MERGES, ""])}
        files |= {file: json.dumps(content) for file, content in others.items()}
        with tempfile.TemporaryDirectory() as folder:
            for file, text in files.items():
                (pathlib.Path(folder) / file).write_text(text, encoding="utf-8")
            folders.append({"name": name, "others": others, "cases": cases(GPT2Tokenizer.from_pretrained(folder))})
    # tokenizer.json with settings beside it.
    own = []
    for name, read in [("PreTrainedTokenizerFast", PreTrainedTokenizerFast), ("GPT2Tokenizer", GPT2Tokenizer)]:
        others = {
            "tokenizer_config.json": {
                "tokenizer_class": name,
                "add_bos_token": True,
                "add_prefix_space": True,
                "bos_token": "<|begin|>",
                "added_tokens_decoder": {"400": flags("<strip>", lstrip=True, rstrip=True)},
            }
        }
        if read is PreTrainedTokenizerFast:  # the other forgets the added tokens of tokenizer.json, and counts anew
            others["tokenizer_config.json"]["pad_token"] = "[PAD]"
        with tempfile.TemporaryDirectory() as folder:
            for file, content in {"tokenizer.json": BYTE_LEVEL, **others}.items():
                (pathlib.Path(folder) / file).write_text(json.dumps(content), encoding="utf-8")
            own.append({"name": name, "others": others, "cases": cases(read.from_pretrained(folder))})
    golden = {
        "metadata": {
            "transformers": transformers.__version__,
            "command": " ".join(["python", "tests/golden/generate_tokenizer_folders.py", *sys.argv[1:]]),
        },
        "folders": folders,
        "own": own,
    }
    (GOLDEN / "tokenizer_folders.json").write_text(json.dumps(golden, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
