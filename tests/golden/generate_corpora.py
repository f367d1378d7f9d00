#!/usr/bin/env python3
"""Writes corpora/: small corpora as nanoGPT's, llm.c's and Megatron's own scripts write them, and packed JSON lines.

    python tests/golden/generate_corpora.py

Needs numpy 2, zstandard, and megatron-core 0.16 (`pip install --no-deps megatron-core`), whose own writer makes the
Megatron corpora. The others follow `data/shakespeare_char/prepare.py` of nanoGPT and `dev/data/data_common.py` and
`fineweb.py` of llm.c, written out here. `expected.json` has the documents.
"""
import gzip
import json
import os
import pickle
import random

import megatron.core
import numpy
import torch
import zstandard
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

FOLDER = os.path.join(os.path.dirname(__file__), "corpora")
END_OF_TEXT = 50256
N_SHARD = 40


def at(name):
    path = os.path.join(FOLDER, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def write_datafile(path, ids, wide):
    """As `write_datafile(filename, toks, model_desc)` for gpt-2 and llama-3."""
    header = numpy.zeros(256, dtype=numpy.int32)
    header[0], header[1], header[2] = (20240801, 7, len(ids)) if wide else (20240520, 1, len(ids))
    with open(path, "wb") as f:
        f.write(header.tobytes())
        f.write(numpy.array(ids, dtype=numpy.uint32 if wide else numpy.uint16).tobytes())


def main():
    choose = random.Random(2026)
    below = lambda n, most: [choose.randrange(n) for _ in range(choose.randrange(most))]
    expected = {}

    text = "To be, or not to be: that is the question.\n"
    chars = sorted(set(text))
    stoi = {c: i for i, c in enumerate(chars)}
    numpy.array([stoi[c] for c in text], dtype=numpy.uint16).tofile(at("nanogpt/train.bin"))
    with open(at("nanogpt/meta.pkl"), "wb") as f:
        meta = {"vocab_size": len(chars), "itos": {i: c for i, c in enumerate(chars)}, "stoi": stoi}
        pickle.dump(meta, f)
    expected["nanogpt"] = {"vocab_size": len(chars), "documents": [[stoi[c] for c in text]]}

    for name, vocab_size, end in [("llmc", 50256, END_OF_TEXT), ("llmc_wide", 128000, 128000)]:
        documents = [[end] + below(vocab_size, 30) for _ in range(7)]
        stream = [token for document in documents for token in document]
        for n, start in enumerate(range(0, len(stream), N_SHARD)):
            write_datafile(at(f"{name}/text_train_{n + 1:06d}.bin"), stream[start : start + N_SHARD], name != "llmc")
        expected[name] = {"end_of_text": end, "documents": documents}

    for name, dtype, vocab_size in [("megatron", numpy.uint16, 50257), ("megatron_wide", numpy.int32, 128256)]:
        builder = IndexedDatasetBuilder(at(f"{name}/text_document.bin"), dtype=dtype)
        documents = [[below(vocab_size, 20) for _ in range(choose.randrange(4))] for _ in range(6)]
        for sentences in documents:
            for sentence in sentences:
                builder.add_item(torch.tensor(sentence, dtype=torch.int64))
            builder.end_document()
        builder.finalize(at(f"{name}/text_document.idx"))
        expected[name] = {"documents": [sum(sentences, []) for sentences in documents]}

    texts = ["Hello tea", "", "Über den Wolken 🤗\n\n", "a <|endoftext|> b"]
    lines = "".join(json.dumps({"meta": {"text": 1}, "content": text}) + "\n" for text in texts).encode()
    half = len(lines) // 2
    with open(at("packed.jsonl.gz"), "wb") as f:  # two members
        f.write(gzip.compress(lines[:half], mtime=0) + gzip.compress(lines[half:], mtime=0))
    with open(at("packed.jsonl.zst"), "wb") as f:  # two frames
        f.write(zstandard.compress(lines[:half]) + zstandard.compress(lines[half:]))
    expected["packed"] = texts

    versions = {"numpy": numpy.__version__, "megatron-core": megatron.core.__version__}
    rows = [f'"{name}": {json.dumps(value, separators=(",", ":"))}' for name, value in {**versions, **expected}.items()]
    with open(at("expected.json"), "w") as f:
        f.write("{\n" + ",\n".join(rows) + "\n}\n")


main()
