"""State dicts as people's scripts save them, each by PyTorch itself: tests/golden/pickles/.

    python tests/golden/generate_pickles.py

Written with torch 2.15.0, numpy 2.4.6 and safetensors 0.8.0. Tables of 5 tokens, 3 positions and 4 columns, whose values are
their own addresses: wte[i, j] = 100 i + j, wpe[i, j] = (100 i + j) / 1024. Averages of them are larger by a half.
"""

import argparse
import collections
import dataclasses
import datetime
import enum
import pathlib
import pickle
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

V, P, C = 5, 3, 4
FOLDER = Path(__file__).parent / "pickles"


def table(n_rows: int) -> torch.Tensor:
    return torch.arange(n_rows)[:, None] * 100.0 + torch.arange(C)


WTE, WPE = table(V), table(P) / 1024
STATE = {"wte.weight": WTE, "wpe.weight": WPE, "ln_f.weight": torch.ones(C)}
AVERAGES = {name: tensor + 0.5 for name, tensor in STATE.items()}


class ByItems:
    """As Python 2 pickles an OrderedDict: a call with a list of its items, which `kind` makes of each."""

    def __init__(self, state, kind=list):
        self.items = [kind(item) for item in state.items()]

    def __reduce__(self):
        return collections.OrderedDict, (self.items,)


class Python2(pickle._Pickler):
    """Writes text as Python 2 writes its `str`."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        data = text.encode()
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str


PYTHON_2 = types.ModuleType("python_2")
PYTHON_2.__dict__.update(Pickler=Python2, Unpickler=pickle.Unpickler, load=pickle.load, loads=pickle.loads,
                         dump=lambda obj, file, protocol: Python2(file, protocol).dump(obj), PickleError=pickle.PickleError)


@dataclasses.dataclass
class GPTConfig:
    """build-nanogpt's."""

    block_size: int = P
    vocab_size: int = V
    n_layer: int = 7
    n_head: int = 2
    n_embd: int = C
    bias: bool = False


class AttributeDict(dict):
    """Lightning's hyper-parameters."""


class Precision(enum.Enum):
    HALF = 16


class Slots:
    __slots__ = ["n_layer"]

    def __init__(self):
        self.n_layer = 1


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = torch.nn.Embedding(V, C)

    def forward(self, ids):
        return self.wte(ids)


class Packed(torch.Tensor):
    """A tensor of a class that nobody else knows, rebuilt by its own function."""

    def __reduce_ex__(self, protocol):
        return rebuild_packed, (torch.ones(V, C),)


def rebuild_packed(tensor):
    return tensor.as_subclass(Packed)


def save(name: str, value, **arguments) -> None:
    torch.save(value, FOLDER / name, **arguments)


def nested(state) -> dict:
    """Megatron-LM's: dicts in dicts, until `layers.0.…`."""
    embedding = {"word_embeddings": {"weight": state["wte.weight"]}, "position_embeddings": {"weight": state["wpe.weight"]}}
    encoder = {"layers.0.input_norm.weight": torch.ones(C), "final_norm.weight": torch.ones(C)}
    return {"language_model": {"embedding": embedding, "encoder": encoder}}


def of_keys(state) -> dict:
    """A dict for each part of a name."""
    dicts: dict = {}
    for name, tensor in state.items():
        first, second = name.split(".")
        dicts.setdefault(first, {})[second] = tensor
    return dicts


def optimizer() -> dict:
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in STATE.values()]
    adam = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    adam.step()
    return adam.state_dict()


def other_keys() -> None:
    """Keys that are no text. Each tensor [n] holds its own number n."""
    save("step_key.pt", {1000: STATE, "epoch": 3})
    save("rank_key.pt", {"models": {0: STATE}, "epoch": 3})
    save("steps.pt", {"steps": {100: STATE, 200: AVERAGES}})
    save("tuple_key.pt", {("gpt", 2): STATE})
    number = lambda n: torch.full((1,), float(n))
    blocks = {"by_number": {0: {"attn.weight": number(0)}, 1: {"attn.weight": number(1)}},
              "by_text": {"0": {"attn.weight": number(2)}}, "by_place": [{"attn.weight": number(3)}, number(4)]}
    keys = {True: number(5), 1.5: number(6), None: number(7), b"bytes": number(8), torch.float16: {"w": number(9)}}
    optim = {"optimizer": {"state": {0: {"exp_avg": number(10)}}, "param_groups": [{"lr": number(11)}]}}
    for protocol in (2, 4):
        save(f"keys_{protocol}.pt", {"model": {**STATE, **blocks, **keys}, **optim}, pickle_protocol=protocol)
    save("no_text.pt", {"model": {**STATE, ("a", 1): number(0), ("b", 2): {"w": number(1)}}})


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    legacy = {"_use_new_zipfile_serialization": False}
    save("items.bin", ByItems(STATE), **legacy)
    save("items.pt", ByItems(STATE))
    save("items_tuples.pt", ByItems(STATE, tuple))
    save("items_nested.pt", {"model": ByItems(STATE), "epoch": 3})
    save("python_2.bin", ByItems(STATE), pickle_module=PYTHON_2, **legacy)
    save("python_2.pt", {"state_dict": ByItems(STATE)}, pickle_module=PYTHON_2)
    # Keys that no one else has, at any depth.
    save("weights.pt", {"weights": STATE, "best": torch.tensor(3.25), "epoch": 3})
    save("deep.pt", {"trainer": {"nets": [{"gpt": STATE}], "step": 4}, "optimizer": optimizer()})
    save("split.pt", {"net": of_keys(STATE), "epoch": 3})
    save("megatron.pt", {"model": nested(STATE), "optimizer": optimizer(), "iteration": 5,
                         "args": argparse.Namespace(num_layers=1, lr=1e-4)})
    # Several.
    save("model_ema.pt", {"ema": AVERAGES, "model": STATE})
    save("net_ema.pt", {"ema": AVERAGES, "nets": {"net.0": STATE}})
    save("moments.pt", {"weights": STATE, "optimizer": {"exp_avg": AVERAGES, "exp_avg_sq": dict(AVERAGES)}})
    save("parts.pt", {"input": STATE, "blocks": {"0.ln_1.weight": torch.ones(C)}})
    save("no_names.pt", {"left": {"a.weight": torch.ones(2)}, "right": {"a.weight": torch.ones(2)}})
    # Objects beside the weights.
    save("dataclass.pt", {"model": STATE, "config": GPTConfig(), "step": 9})
    objects = {"path": pathlib.PurePosixPath("/data"), "when": datetime.datetime(2026, 11, 28), "losses": np.arange(3.0),
               "precision": Precision.HALF, "slots": Slots(), "hyper_parameters": AttributeDict(n_head=2), "class": Module}
    save("objects.pt", {"state_dict": STATE, **objects})
    save("objects.bin", {**STATE, "config": GPTConfig()}, pickle_protocol=2, **legacy)
    save("objects_4.pt", {"state_dict": STATE, **objects}, pickle_protocol=4)
    # Dropout as nanoGPT saves it.
    model_args = {"n_layer": 2, "n_head": 2, "n_embd": C, "block_size": P, "bias": False, "vocab_size": V, "dropout": 0.0}
    save("model_args.pt", {"model": STATE, "model_args": model_args})
    more = {"model_type": "llama", "scale_emb": 12, "rope_theta": 5e5, "nested": {"dtype": torch.bfloat16, "sizes": (1, 2)},
            "betas": [0.9, float("nan")], "note": None}
    save("args_llama.pt", {"model": STATE, "model_args": {**model_args, **more}})
    save("args_unknown.pt", {"model": STATE, "model_args": {**model_args, "use_rope": True}})
    # What is no state dict.
    other_keys()
    save("optimizer.pt", optimizer())
    save("module.pt", Module())
    save("tensor.pt", WTE)
    save("numbers.pt", {"epoch": 3, "loss": 0.5})
    save("packed.pt", {"wpe.weight": WPE, "wte.weight": WTE.as_subclass(Packed)})
    torch.jit.script(Module()).save(str(FOLDER / "script.pt"))
    # Eight bits: powers of two, which all of the types hold.
    small = {"wte.weight": 2.0 ** (torch.arange(V * C).reshape(V, C) % 5 - 2), "wpe.weight": torch.ones(P, C)}
    other = {**STATE, "h.0.mlp.c_fc.weight": torch.ones(C, 8).to(torch.float8_e4m3fn)}
    save("other_float8.pt", other)
    save_file(other, FOLDER / "other_float8.safetensors")
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz):
        save(f"{str(dtype).removeprefix('torch.')}.pt", {name: tensor.to(dtype) for name, tensor in small.items()})
    float8 = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in small.items()}
    save_file({**float8, "rest": torch.ones(3)}, FOLDER / "float8.safetensors")
    save_file({**float8, "wte.weight_scale_inv": torch.ones(1)}, FOLDER / "float8_scaled.safetensors")
    save_file(small, FOLDER / "small.safetensors")


if __name__ == "__main__":
    main()
