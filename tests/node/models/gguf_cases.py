"""GGUF files of tiny models, written with the `gguf` package as llama.cpp's converter would."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

QK_K = 256
"""Weights of a Q4_K block."""

LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    **{
        f"self_attn.{part}_{kind}": f"attn_{part}{'_norm' if 'norm' in kind else ''}.{end}"
        for part in "qkv"
        for kind, end in (
            ("proj.weight", "weight"),
            ("proj.bias", "bias"),
            ("norm.weight", "weight"),
        )
    },
}
END_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(path: Path, directory: Path, kind: str = "F16", **metadata: Any) -> Path:
    """The model of an HF directory as GGUF: matrices in `kind`, vectors in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((directory / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    writer = GGUFWriter(path, config["model_type"])
    _write_metadata(writer, config, directory, metadata)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    tensors = dict(model.state_dict())
    if config["tie_word_embeddings"]:
        del tensors["lm_head.weight"]
    for name, tensor in tensors.items():
        array = tensor.numpy()
        target = gguf_name(name)
        if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
            array = permute(array, heads[name.split("self_attn.")[1][0]])
        _write_tensor(writer, target, array, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    if name in END_NAMES:
        return END_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}"


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What the converter does to query and key rows of the llama architecture."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _write_metadata(
    writer: GGUFWriter, config: dict[str, Any], directory: Path, more: dict[str, Any]
) -> None:
    rope = config["rope_parameters"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    heads = config["num_attention_heads"]
    writer.add_key_length(config.get("head_dim") or config["hidden_size"] // heads)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    vocabulary = {**tokenizer["model"]["vocab"]}
    vocabulary |= {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"][0])
    writer.add_chat_template((directory / "chat_template.jinja").read_text())
    writer.add_string("general.license", "apache-2.0")
    for key, value in more.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)


def _write_tensor(writer: GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    if array.ndim == 1 or kind == "F32":
        writer.add_tensor(name, array.astype(np.float32))
    elif kind == "F16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        dtype = GGMLQuantizationType[kind]
        packed = quantize_q4_k(array) if kind == "Q4_K" else quantize(array, dtype)
        writer.add_tensor(name, packed, raw_dtype=dtype)


def quantize_q4_k(rows: np.ndarray) -> np.ndarray:
    """A plain Q4_K encoder (the package only decodes): 8 sub-blocks with 6-bit scales and mins."""
    blocks = rows.astype(np.float32).reshape(-1, 8, 32)
    low = np.minimum(blocks.min(axis=2), 0)
    step = (blocks.max(axis=2) - low) / 15
    d = np.maximum(step.max(axis=1, keepdims=True) / 63, 1e-6).astype(np.float16)
    dmin = np.maximum(-low.min(axis=1, keepdims=True) / 63, 1e-6).astype(np.float16)
    scales = np.clip(np.round(step / d), 0, 63).astype(np.uint8)
    mins = np.clip(np.round(-low / dmin), 0, 63).astype(np.uint8)
    scale = d.astype(np.float32) * scales
    minimum = dmin.astype(np.float32) * mins
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.nan_to_num((blocks + minimum[:, :, None]) / scale[:, :, None])
    codes = np.clip(np.round(codes), 0, 15).astype(np.uint8)
    packed_scales = np.zeros((len(blocks), 12), np.uint8)
    packed_scales[:, 0:4] = (scales[:, :4] & 63) | ((scales[:, 4:] >> 4) << 6)
    packed_scales[:, 4:8] = (mins[:, :4] & 63) | ((mins[:, 4:] >> 4) << 6)
    packed_scales[:, 8:12] = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    pairs = codes.reshape(-1, 4, 2, 32)
    quants = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(len(blocks), 128)
    packed = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), packed_scales, quants], axis=1)
    return packed.reshape(*rows.shape[:-1], -1)
