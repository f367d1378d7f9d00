#!/usr/bin/env python3
"""Compares the examples with PyTorch on configurations drawn at random. Run by hand, not by CI.

    pip install torch transformers tokenizers safetensors numpy
    cargo build --release --examples
    python tests/golden/compare_with_torch.py [--seed S] [--configurations N] [COMPARISON...]

Each comparison draws configurations from the seed, runs the built example, computes the same in PyTorch and requires
equality to the last bit. If one differs, it prints the configuration, and the exit status is 1.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXT = ROOT / "examples" / "data" / "genesis.txt"


def run(name, *arguments):
    """Runs an example and returns its standard output."""
    command = [ROOT / "target" / "release" / "examples" / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


class GPTDatasetV1(Dataset):
    """The class of "Build a Large Language Model (From Scratch)", chapter 2, but on ids."""

    def __init__(self, token_ids, max_length, stride):
        self.input_ids = []
        self.target_ids = []
        for i in range(0, len(token_ids) - max_length, stride):
            self.input_ids.append(torch.tensor(token_ids[i : i + max_length]))
            self.target_ids.append(torch.tensor(token_ids[i + 1 : i + max_length + 1]))

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


def token_ids(text):
    try:
        import tiktoken

        return tiktoken.get_encoding("gpt2").encode(text)
    except Exception:  # without its downloaded vocabulary
        from tokenizers import ByteLevelBPETokenizer

        merges = (ROOT / "weights" / "gpt2-tokenizer" / "vocab.bpe").read_text().splitlines()[1:]
        merges = [tuple(merge.split()) for merge in merges if merge]
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        alphabet = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
        vocab = {token: i for i, token in enumerate(alphabet + ["".join(merge) for merge in merges])}
        return ByteLevelBPETokenizer(vocab=vocab, merges=merges).encode(text).ids


def dataloader(choose, folder):
    """Compares the batches of all epochs, in one run and in runs resumed from a state file."""
    if not hasattr(dataloader, "ids"):
        dataloader.text = TEXT.read_text()
        dataloader.ids = token_ids(dataloader.text)
    max_length = choose.choice([1, 2, 3, 4, 7, 16, 64, 256])
    stride = choose.choice([1, 2, 3, max_length, max_length, max_length + 1, 128])
    # Part of the text, cut where the cut does not change the tokens before it.
    cut = choose.choice([i for i, c in enumerate(dataloader.text) if c == "\n"])
    path = folder / "text.txt"
    path.write_text(dataloader.text[:cut])
    ids = token_ids(dataloader.text[:cut]) if cut else []
    if len(ids) <= max_length:
        return dataloader(choose, folder)
    dataset = GPTDatasetV1(ids, max_length, stride)
    least = -(-len(dataset) // 200)  # at most 200 batches in an epoch
    batch_size = choose.choice([least, least + 1, max(least, 2), max(least, 8), max(least, 32), len(dataset) + 1])
    drop_last, shuffle = choose.random() < 0.5, choose.random() < 0.8
    epochs, seed = choose.randint(1, 4), choose.choice([0, 123, choose.getrandbits(32), choose.getrandbits(63)])
    seeding = choose.choice(["--seed", "--generator-seed"])

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed) if seeding == "--generator-seed" else None
    loader = DataLoader(dataset, batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator)
    expected = [batch for _ in range(epochs) for batch in loader]

    arguments = ["--text-file", path, "--batch-size", batch_size, "--max-length", max_length, "--stride", stride]
    arguments += ["--epochs", epochs, seeding, seed] + ["--shuffle"] * shuffle + ["--drop-last"] * drop_last
    output, state = folder / "out.safetensors", folder / "state.json"

    def written(*more):
        out = run("dataloader", *arguments, "--output", output, *more)
        tensors = load_file(output)
        return out, [(tensors[f"input_ids.{n}"], tensors[f"target_ids.{n}"]) for n in range(len(tensors) // 2)]

    def check(found, what):
        same = len(found) == len(expected) and all(
            x.dtype == a.dtype and torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(found, expected)
        )
        assert same, f"{what}: dataloader {' '.join(map(str, arguments))}"

    out, found = written()
    check(found, "whole")
    counts = f"{len(ids)} tokens, {len(dataset)} windows, {len(loader)} batches an epoch"
    assert counts in out, f"{counts} not in {out}"
    if expected:
        first = f"Inputs:\n {expected[0][0]}\n\nTargets:\n {expected[0][1]}\n"
        assert first in out, f"{first} not in {out}"
    state.unlink(missing_ok=True)
    found = []
    stop = choose.randint(0, len(expected) + 1)
    for more in [["--stop-after", stop], []]:
        found += written("--state-file", state, *more)[1]
    check(found, f"resumed after {stop}")
    assert len(json.dumps(json.loads(state.read_text()))) < 8192


def init_table(choose, folder):
    """Compares a seeded table of any size and dtype."""
    v, c = choose.choice([1, 2, 6, 15, 97, 1000, 3000]), choose.choice([1, 3, 5, 16, 33, 64, 257])
    dtype, torch_dtype = choose.choice([("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)])
    std, seed = choose.choice([1.0, 0.02, 0.01, 3.7]), choose.choice([0, 123, choose.getrandbits(32), choose.getrandbits(63)])
    output = folder / "out.safetensors"
    arguments = ["--vocab-size", v, "--n-embd", c, "--seed", seed, "--std", std, "--dtype", dtype, "--output", output]
    run("init_table", *arguments)
    torch.manual_seed(seed)
    expected = torch.empty(v, c, dtype=torch_dtype).normal_(0, std)
    found = load_file(output)["weight"]
    same = found.dtype == torch_dtype and torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    assert same, f"init_table {' '.join(map(str, arguments))}"


def embed(choose, folder):
    """Compares the hidden states of a checkpoint that transformers wrote, in one file or in shards."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    v, p, c = choose.randint(2, 3000), choose.randint(1, 200), choose.choice([1, 3, 8, 31, 64, 96])
    torch.manual_seed(choose.getrandbits(32))
    heads = choose.choice([n for n in range(1, c + 1) if c % n == 0])
    config = transformers.GPT2Config(vocab_size=v, n_positions=p, n_embd=c, n_layer=choose.randint(0, 2), n_head=heads)
    kind = choose.choice([transformers.GPT2LMHeadModel, transformers.GPT2Model])
    stored = choose.choice([torch.float32, torch.bfloat16, torch.float16])
    kind(config).to(stored).save_pretrained(folder, max_shard_size=choose.choice(["10GB", "20KB"]))
    dtype, torch_dtype = choose.choice([("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)])
    t = choose.randint(1, p)
    start = choose.randint(0, p - t)
    ids = torch.randint(0, v, (1, t))
    output = folder / "out.safetensors"
    arguments = ["--weights", folder, "--ids", ",".join(map(str, ids[0].tolist())), "--dtype", dtype]
    run("embed", *arguments, "--start-pos", start, "--output", output)
    model = kind.from_pretrained(folder, dtype=torch_dtype)
    stage = getattr(model, "transformer", model)
    expected = stage.wte(ids) + stage.wpe(torch.arange(start, start + t))
    found = load_file(output)["hidden_states"]
    assert found.dtype == torch_dtype and torch.equal(found, expected), f"embed {v} {p} {c} {dtype} {start} {t}"


# One function for each example. It takes a `random.Random` and an empty folder, and raises AssertionError.
COMPARISONS = {"dataloader": dataloader, "init_table": init_table, "embed": embed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--configurations", type=int, default=250)
    parser.add_argument("comparisons", nargs="*", default=list(COMPARISONS), metavar="COMPARISON")
    args = parser.parse_args()
    failed = 0
    for name in args.comparisons:
        choose = random.Random(f"{name} {args.seed}")
        n_equal = 0
        for _ in range(args.configurations):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    COMPARISONS[name](choose, pathlib.Path(folder))
                    n_equal += 1
                except AssertionError as error:
                    failed += 1
                    print(f"{name} differs: {error}", file=sys.stderr)
        print(f"{name}: {n_equal} of {args.configurations} configurations equal (torch {torch.__version__}, seed {args.seed})")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
