"""Writes tests/golden/formats/: one small GPT-2 in every format, each by the format's own library.

    python tests/golden/generate_formats.py                 # torch, numpy, gguf, safetensors: all but TensorFlow
    python tests/golden/generate_formats.py --tensorflow    # needs tensorflow; only the folder openai/

Written with torch 2.15.0, numpy 2.4.6, gguf 0.19.0, safetensors 0.8.0 and tensorflow 2.21.0. llm.c has no library: its
file is written like `write_model` of its train_gpt2.py, which src/checkpoint/format/llmc.rs cites.
"""

import argparse
import json
from pathlib import Path

import numpy as np

V, P, C, PADDED = 13, 6, 32, 64  # 32 is a block of Q8_0; llm.c pads its vocabulary
FOLDER = Path(__file__).parent / "formats"


def table(seed: int, n_rows: int) -> np.ndarray:
    """Returns values that bf16 and f16 hold exactly, so that all files agree, with -0.0 and subnormals of f16."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (n_rows, C)).astype(np.float32) * 2.0 ** rng.integers(-9, 3, (n_rows, C))
    values[0, :3] = [-0.0, 2.0**-24, -(2.0**-20)]
    return values.astype(np.float32)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tensorflow", action="store_true")
    wte, wpe = table(1, V), table(2, P)
    FOLDER.mkdir(exist_ok=True)
    if arguments.parse_args().tensorflow:
        return tensorflow(wte, wpe)
    torch_files(wte, wpe)
    numpy_files(wte, wpe)
    gguf_files(wte, wpe)
    llmc("llmc_f32.bin", 3, wte, wpe)
    llmc("llmc_bf16.bin", 5, wte, wpe)


def torch_files(wte: np.ndarray, wpe: np.ndarray) -> None:
    import torch
    from safetensors.torch import save_file

    tables = {"wte.weight": torch.from_numpy(wte), "wpe.weight": torch.from_numpy(wpe)}
    prefixed = {f"transformer.{name}": tensor for name, tensor in tables.items()}
    prefixed["lm_head.weight"] = prefixed["transformer.wte.weight"]
    save_file(tables, FOLDER / "tables.safetensors", metadata={"torch": torch.__version__})
    torch.save(prefixed, FOLDER / "state_dict.pth")
    torch.save(prefixed, FOLDER / "legacy.bin", _use_new_zipfile_serialization=False)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        name = str(dtype).removeprefix("torch.")
        torch.save({key: tensor.to(dtype) for key, tensor in tables.items()}, FOLDER / f"{name}.pt", pickle_protocol=4)
    # nanoGPT: nested and compiled, with an optimizer and arguments.
    compiled = {f"_orig_mod.{name}": torch.nn.Parameter(tensor) for name, tensor in prefixed.items()}
    arguments = {"n_layer": 2, "n_head": 4, "n_embd": C, "block_size": P, "bias": False, "vocab_size": V, "dropout": 0.0}
    optimizer = torch.optim.AdamW(list(compiled.values())[:2], lr=6e-4).state_dict()
    checkpoint = {"model": compiled, "optimizer": optimizer, "model_args": arguments, "iter_num": 2000,
                  "best_val_loss": torch.tensor(3.25), "config": {"wandb_run_name": "gpt2", "learning_rate": 6e-4}}
    torch.save(checkpoint, FOLDER / "nanogpt.pt")
    # Views: a transposed table, and one in the middle of a larger storage.
    wide = torch.full((P + 4, C + 5), 77.0)
    wide[3 : 3 + P, 2 : 2 + C] = tables["wpe.weight"]
    strided = {"wte.weight": tables["wte.weight"].t().contiguous().t(), "wpe.weight": wide[3 : 3 + P, 2 : 2 + C]}
    torch.save(strided, FOLDER / "strided.pth")
    torch.save(strided, FOLDER / "strided_legacy.pth", _use_new_zipfile_serialization=False)
    # Shards as transformers makes them.
    folder = FOLDER / "sharded"
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for i, (name, tensor) in enumerate(tables.items(), 1):
        weight_map[name] = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: tensor}, folder / weight_map[name])
    index = {"metadata": {"total_size": (V + P) * C * 4}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps({"vocab_size": V, "n_positions": P, "n_embd": C, "n_layer": 2, "n_head": 4}))


def numpy_files(wte: np.ndarray, wpe: np.ndarray) -> None:
    np.savez(FOLDER / "stored.npz", wte=wte, wpe=wpe, step=np.array(7))
    np.savez_compressed(FOLDER / "deflated.npz", **{"tok_emb.weight": wte, "pos_emb.weight": wpe})
    fortran = {"wte.weight": np.asfortranarray(wte.astype(np.float16)), "wpe.weight": np.asfortranarray(wpe.astype(">f8"))}
    np.savez_compressed(FOLDER / "fortran_deflated.npz", **fortran)
    np.savez(FOLDER / "fortran.npz", **fortran)


def gguf_files(wte: np.ndarray, wpe: np.ndarray) -> None:
    import gguf

    for name, kind in [("f32", gguf.GGMLQuantizationType.F32), ("f16", gguf.GGMLQuantizationType.F16),
                       ("bf16", gguf.GGMLQuantizationType.BF16), ("q8_0", gguf.GGMLQuantizationType.Q8_0),
                       ("q4_0", gguf.GGMLQuantizationType.Q4_0), ("q5_1", gguf.GGMLQuantizationType.Q5_1)]:
        writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", "gpt2")
        writer.add_context_length(P)
        writer.add_embedding_length(C)
        writer.add_block_count(2)
        writer.add_head_count(4)
        writer.add_token_list([f"t{i}" for i in range(V)])
        writer.add_array("tokenizer.ggml.scores", [0.5] * V)
        quantized = gguf.quants.quantize(wte, kind)
        writer.add_tensor("token_embd.weight", quantized, raw_dtype=kind)
        # llama.cpp keeps positions in f32.
        writer.add_tensor("position_embd.weight", wpe)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if name.startswith("q"):
            dequantized = gguf.quants.dequantize(quantized, kind).astype(np.float32)
            np.savez(FOLDER / f"{name}_dequantized.npz", wte=dequantized, wpe=wpe)


def llmc(name: str, version: int, wte: np.ndarray, wpe: np.ndarray) -> None:
    n_layer, n_head, c = 0, 4, C  # no blocks: 12 C² elements each would be most of the golden files
    header = np.zeros(256, dtype=np.int32)
    header[:8] = [20240326, version, P, V, n_layer, n_head, c, PADDED]
    padding = np.zeros((PADDED - V, C), dtype=np.float32)
    parameters = [wte, padding, wpe, np.ones(C), np.zeros(C)]
    with open(FOLDER / name, "wb") as file:
        file.write(header.tobytes())
        for parameter in parameters:
            values = parameter.astype("<f4")
            file.write(values.tobytes() if version == 3 else (values.view("<u4") >> 16).astype("<u2").tobytes())


def tensorflow(wte: np.ndarray, wpe: np.ndarray) -> None:
    import tensorflow as tf

    folder = FOLDER / "openai"
    folder.mkdir(exist_ok=True)
    variables = {"model/wte": wte, "model/wpe": wpe, "model/h0/ln_1/g": np.ones(C, np.float32),
                 "model/h1/ln_1/g": np.ones(C, np.float32), "model/step": np.array(7, np.int64)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        saver = tf.compat.v1.train.Saver({name: tf.compat.v1.Variable(value, name=name.replace("/", "_"))
                                          for name, value in variables.items()})
        session.run(tf.compat.v1.global_variables_initializer())
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    (folder / "hparams.json").write_text(json.dumps({"n_vocab": V, "n_ctx": P, "n_embd": C, "n_head": 4, "n_layer": 2}))


if __name__ == "__main__":
    main()
