#!/usr/bin/env python3
"""Holds `tokenize` to the peers: nanoGPT's, llm.c's and Megatron's readers give tiktoken's ids of its files.

    python tests/golden/corpora_with_python.py [FILE…]

Needs numpy, tiktoken, torch, zstandard and megatron-core 0.16 (`pip install --no-deps megatron-core`), whose own
IndexedDataset reads the Megatron corpora. The readers of nanoGPT (`get_batch`) and llm.c (`dataloader.h`) are written out
here. Without files it takes the default text of the examples, in documents of a few verses. Prints nothing but a count if
all agree.
"""
import gzip
import json
import os
import subprocess
import sys
import tempfile

import numpy
import tiktoken
import zstandard
from megatron.core.datasets.indexed_dataset import IndexedDataset
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
END_OF_TEXT = 50256
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def gpt2():
    weights = os.path.join(ROOT, "weights", "gpt2-tokenizer")
    ranks = data_gym_to_mergeable_bpe_ranks(f"{weights}/vocab.bpe", f"{weights}/encoder.json")
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": END_OF_TEXT})


def read_nanogpt(folder):
    """`np.memmap(os.path.join(data_dir, 'train.bin'), dtype=np.uint16, mode='r')`"""
    return [numpy.memmap(os.path.join(folder, "train.bin"), dtype=numpy.uint16, mode="r").astype(int).tolist()]


def read_llmc(folder):
    """`dataloader_load_shard_`: the header, and a file that has exactly its tokens."""
    shards = []
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".bin")):
        path = os.path.join(folder, name)
        header = numpy.fromfile(path, dtype=numpy.int32, count=256)
        assert header[0] == 20240520 and header[1] == 1 and not header[3:].any(), name
        assert os.path.getsize(path) == 1024 + 2 * header[2] and header[2] > 0, name
        shards.append(numpy.fromfile(path, dtype=numpy.uint16, offset=1024).astype(int).tolist())
    return shards


def read_megatron(folder):
    documents = []
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".bin")):
        for mmap in [True, False]:
            dataset = IndexedDataset(os.path.join(folder, name[: -len(".bin")]), mmap=mmap)
            borders = dataset.document_indices.tolist()
            assert borders[0] == 0 and borders[-1] == len(dataset), name
            pairs = zip(borders, borders[1:])
            found = [sum((dataset[i].astype(int).tolist() for i in range(*pair)), []) for pair in pairs]
        documents += found
    return documents


def main():
    texts = [open(path, encoding="utf-8").read() for path in sys.argv[1:]]
    if not texts:
        verses = open(f"{ROOT}/examples/data/genesis.txt", encoding="utf-8").read().splitlines(keepends=True)
        texts = ["".join(verses[i : i + 7]) for i in range(0, len(verses), 7)] + ["", "🤗 <|endoftext|>", "naïve\n"]
    encoding = gpt2()
    ids = [encoding.encode_ordinary(text) for text in texts]
    begun = [token for document in ids for token in [END_OF_TEXT, *document]]
    ended = [[*document, END_OF_TEXT] for document in ids]
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps({"id": 1, "body": text}) + "\n" for text in texts).encode()
        for name, pack in [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)]:
            with open(os.path.join(folder, name), "wb") as f:
                f.write(pack(lines))
            for kind in ["nanogpt", "llmc", "megatron"]:
                out = os.path.join(folder, f"{name}.{kind}")
                shards = [] if kind == "nanogpt" else ["--shard-tokens", "5000"]
                command = ["cargo", "run", "-q", "--release", "--example", "tokenize", "--", os.path.join(folder, name)]
                command += ["--key", "body", "--out", out, "--format", kind, *shards]
                subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                if kind == "megatron":
                    assert read_megatron(out) == [document for document in ended if len(document) > 1], name
                elif kind == "llmc":
                    shards = read_llmc(out)
                    assert sum(shards, []) == begun and all(len(shard) == 5000 for shard in shards[:-1]), name
                else:
                    assert read_nanogpt(out) == [sum(ended, [])], name
    print(f"{len(texts)} documents in 3 formats, from 3 kinds of files: all agree")


main()
