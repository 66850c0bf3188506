"""A GGUF file becomes a model directory in the hub's layout, which is what engines load.

Weights are dequantized to fp16 (what llama.cpp computes with), row by row, so that a model larger
than memory can be converted; how they are then held is the engine's `compute_dtype`. The result
differs from the original model by what the file's quantization lost, which nothing brings back.
"""

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node.engine.errors import ModelUnsupported
from node.engine.weights import INDEX_NAME
from node.models.gguf_config import ROPE_FREQS, hub_config, hub_name, is_permuted, unpermute
from node.models.gguf_file import GGUFFile, GGUFTensor, read_gguf
from node.models.gguf_tokenizer import TokenizerFiles, read_tokenizer

__all__ = ["import_gguf"]

WEIGHT_FILE_BYTES = 2 * 2**30
"""About the size of one weight file: what is fetched of a model is fetched file by file."""

FP16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor to be written: as fp32 where the file has it so (norms, biases), else fp16."""

    name: str
    source: GGUFTensor

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.source.shape)) * (4 if self.source.is_fp32 else 2)


def import_gguf(path: Path, directory: Path) -> None:
    """Write the model in `path` to `directory`, which must not exist; all of it or nothing.

    Raises ModelUnsupported for a family, tokenizer or setting that is not read, ShardMismatch for
    a file that ends early, OSError for a full disk.
    """
    if directory.exists():
        raise ModelUnsupported(f"'{directory}' is there already.", hint="Remove it first.")
    file = read_gguf(path)
    architecture = str(file.metadata.get("general.architecture"))
    freqs = None
    if ROPE_FREQS in file.tensors:
        freqs = np.concatenate([*file.rows(file.tensors[ROPE_FREQS])]).ravel().tolist()
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelUnsupported("The GGUF file holds no embedding: it is no whole model.")
    config = hub_config(
        file.metadata,
        vocabulary_size=embedding.shape[0],
        is_tied="output.weight" not in file.tensors,
        rope_freqs=freqs,
    )
    tokenizer = read_tokenizer(file.metadata)
    planned = [
        _Planned(name, tensor)
        for tensor in file.tensors.values()
        if (name := hub_name(tensor.name)) is not None
    ]
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last move is one rename on one file system.
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".import-"))
    try:
        heads = (config["num_attention_heads"], config["num_key_value_heads"])
        _write_weights(file, architecture, planned, heads, scratch)
        _write_texts(scratch, config, tokenizer, file)
        scratch.rename(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_weights(
    file: GGUFFile,
    architecture: str,
    planned: Sequence[_Planned],
    heads: tuple[int, int],
    directory: Path,
) -> None:
    files = list(_fill_files(planned))
    weight_map: dict[str, str] = {}
    for number, members in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with (directory / name).open("wb") as stream:
            header = json.dumps(_header(members)).encode()
            stream.write(struct.pack("<Q", len(header)) + header)
            for member in members:
                for rows in _converted(file, architecture, member, heads):
                    stream.write(rows.tobytes())
        weight_map |= {member.name: name for member in members}
    total = sum(member.size_bytes for member in planned)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=1))


def _fill_files(planned: Sequence[_Planned]) -> Iterator[list[_Planned]]:
    members: list[_Planned] = []
    for member in planned:
        if members and sum(m.size_bytes for m in members) + member.size_bytes > WEIGHT_FILE_BYTES:
            yield members
            members = []
        members.append(member)
    if members:
        yield members


def _header(members: Sequence[_Planned]) -> dict[str, object]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for member in members:
        end = start + member.size_bytes
        dtype = "F32" if member.source.is_fp32 else "F16"
        shape = list(member.source.shape)
        header[member.name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    return header


def _converted(
    file: GGUFFile, architecture: str, member: _Planned, heads: tuple[int, int]
) -> Iterator[npt.NDArray[np.generic]]:
    """The tensor's bytes to be, some rows at a time, in transformers' order."""
    name = member.source.name
    parts = file.rows(member.source)
    if is_permuted(architecture, name):
        whole = np.concatenate(list(parts)).reshape(member.source.shape)
        parts = iter([unpermute(whole, heads[0] if ".attn_q." in name else heads[1])])
    for rows in parts:
        if member.source.is_fp32:
            yield rows.astype("<f4")
            continue
        if not np.abs(rows).max(initial=0.0) <= FP16_MAX:  # NaN is not, either
            raise ModelUnsupported(f"The file's '{name[:64]}' holds what fp16 cannot.")
        yield rows.astype("<f2")


def _write_texts(
    directory: Path, config: dict[str, object], tokenizer: TokenizerFiles, file: GGUFFile
) -> None:
    texts = {
        "config.json": json.dumps(config, indent=2),
        "tokenizer.json": tokenizer.tokenizer_json,
        "tokenizer_config.json": json.dumps(tokenizer.settings, indent=2),
    }
    if tokenizer.chat_template is not None:
        texts["chat_template.jinja"] = tokenizer.chat_template
    licence = file.metadata.get("general.license")
    if isinstance(licence, str) and "\n" not in licence:
        texts["README.md"] = f"---\nlicense: {licence}\n---\nConverted from {file.path.name}.\n"
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
