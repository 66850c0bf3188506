"""Small model directories with a layout like real ones: several files, an index, texts."""

import json
import struct

from node.engine.store import build_manifest
from node.engine.weights import INDEX_NAME

LAYERS = 4
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": 8,
    "vocab_size": 16,
    "max_position_embeddings": 64,
}
NAME = "org/tiny"


def layer_tensors(layer, size):
    return {
        f"model.layers.{layer}.input_layernorm.weight": 16,
        f"model.layers.{layer}.mlp.down_proj.weight": size,
        f"model.layers.{layer}.self_attn.q_proj.weight": size // 2,
    }


def files_of(size):
    """Layer 1 is cut over two files, as real ones are."""
    one = layer_tensors(1, size)
    names = list(one)
    return {
        "model-00001-of-00003.safetensors": {
            "model.embed_tokens.weight": 2 * size,
            **layer_tensors(0, size),
            names[0]: one[names[0]],
        },
        "model-00002-of-00003.safetensors": {n: one[n] for n in names[1:]} | layer_tensors(2, size),
        "model-00003-of-00003.safetensors": {**layer_tensors(3, size), "model.norm.weight": 16},
    }


def write_weights(path, sizes, seed):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, size in sizes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": [len(data), len(data) + size],
        }
        pattern = f"{seed}{name}".encode()
        data += (pattern * (size // len(pattern) + 1))[:size]
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def make_model(directory, *, size=40_000, seed="", is_single=False):
    """A whole model of 4 layers in `directory`."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    files = files_of(size)
    if is_single:
        merged = {name: size for sizes in files.values() for name, size in sizes.items()}
        files = {"model.safetensors": merged}
    for file, sizes in files.items():
        write_weights(directory / file, sizes, seed)
    if not is_single:
        places = {name: file for file, sizes in files.items() for name in sizes}
        (directory / INDEX_NAME).write_text(json.dumps({"weight_map": places}))
    return directory


def publish_manifest(directory, name=NAME):
    """Put the manifest beside the weights, as a repository's maker would."""
    manifest = build_manifest(directory, name)
    (directory / "piecework.manifest").write_bytes(manifest.encode())
    return manifest
