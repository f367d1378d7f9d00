"""What torch.save writes besides plain tensors of protocol 2: tests/golden/torch/.

    python tests/golden/generate_torch_kinds.py

Written with torch 2.15.0 and numpy 2.4.6. The tables are those of generate_pickles.py: 5 tokens, 3 positions and 4
columns, wte[i, j] = 100 i + j, wpe[i, j] = (100 i + j) / 1024.
"""

import warnings
from pathlib import Path

import numpy as np
import torch

V, P, C = 5, 3, 4
FOLDER = Path(__file__).parent / "torch"


def table(n_rows: int) -> torch.Tensor:
    return torch.arange(n_rows)[:, None] * 100.0 + torch.arange(C)


WTE, WPE = table(V), table(P) / 1024
STATE = {"wte.weight": WTE, "wpe.weight": WPE}


class Sub(torch.Tensor):
    """A subclass that PyTorch rebuilds by itself."""


def save(name: str, value, **arguments) -> None:
    torch.save(value, FOLDER / name, **arguments)


def negated(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the negative of this tensor: what its storage holds has the other sign."""
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg() and torch.equal(view, tensor)
    return view


def with_attribute(parameter: torch.nn.Parameter, name: str) -> torch.nn.Parameter:
    parameter.__dict__[name] = torch.zeros(1)
    return parameter


def kinds() -> dict:
    """One tensor of each kind that only PyTorch reads, and some that others read too."""
    ones = torch.ones(2, 3)
    return {
        "sparse": ones.to_sparse(),
        "sparse_csr": ones.to_sparse_csr(),
        "sparse_parameter": torch.nn.Parameter(ones.to_sparse()),
        "quantized": torch.quantize_per_tensor(ones, 0.5, 1, torch.quint8),
        "per_channel": torch.quantize_per_channel(ones, torch.ones(2), torch.zeros(2), 0, torch.qint8),
        "meta": torch.empty(2, 3, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "negated": negated(ones),
        "negated_double": negated(ones.double()),
        "conjugated": torch.complex(ones, ones).conj(),
        "expanded": torch.ones(1, 1).expand(4, 5),
        "replaced": with_attribute(torch.nn.Parameter(ones.clone()), "data"),
        # These are read.
        "attribute": with_attribute(torch.nn.Parameter(ones.clone()), "tag"),
        "subclass": ones.as_subclass(Sub),
        "complex": torch.complex(ones, ones),
        "view": torch.arange(12.0).reshape(3, 4)[1:, 1:3],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(123)
    containers = {".pt": {}, ".bin": {"_use_new_zipfile_serialization": False}}
    for protocol in range(6):
        for ending, container in containers.items():
            # Texts that protocol 0 escapes, and objects of NumPy and Python.
            beside = {"naïve\n\\u0041": "it's", "losses": np.arange(3.0), "shape": WTE.shape, "flags": [True, None, -70000, 0.5]}
            save(f"protocol_{protocol}{ending}", {"model": STATE, **beside}, pickle_protocol=protocol, **container)
    for ending, container in containers.items():
        save(f"kinds{ending}", {**STATE, **kinds()}, **container)
    save("kinds_apart.pt", {"model": STATE, "extra": [kinds()["sparse"]]})
    save("negated_wte.pt", {**STATE, "wte.weight": negated(WTE)})


if __name__ == "__main__":
    main()
