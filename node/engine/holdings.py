"""What of a model lies in a directory: all of it, a pulled part, or a shard copied by hand.

A pull writes weight files at their full length with holes where nothing was fetched, so a file's
being there says nothing. Two files beside the weights do: `piecework.manifest`, which tensors the
model has and their SHA-256, and `piecework.journal`, a line for each tensor that was fetched and
hashed. Without a journal, what the weight files' headers place is there. See
docs/guides/models-on-disk.md.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.engine.digests import hash_range
from node.engine.errors import ShardMismatch, WeightsCorrupt
from node.engine.weights import StoredTensor, read_present
from protocol.errors import RemoteProtocolError
from protocol.model import ENDS, ModelManifest, TensorEntry
from protocol.route import Span

__all__ = [
    "JOURNAL_NAME",
    "MANIFEST_NAME",
    "Holdings",
    "is_of_shard",
    "layer_bytes",
    "missing_tensors",
    "pull_hint",
    "read_holdings",
    "read_journal",
    "read_manifest",
    "verify_span",
    "wrong_tensors",
]

MANIFEST_NAME = "piecework.manifest"
JOURNAL_NAME = "piecework.journal"

JOURNAL_BYTES_MAX = 256 * 1024 * 1024
"""A line has about 150 bytes and the largest model 90 000 tensors; more is no journal of ours."""

HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Holdings:
    """A directory's tensors: where each lies, and which of them were really written."""

    places: Mapping[str, StoredTensor]
    journal: Mapping[str, bytes] | None
    """SHA-256 of every tensor that a pull has fetched; None where no pull was."""

    def has(self, tensor: TensorEntry) -> bool:
        """Whether the tensor's own bytes were put here; only `verify_span` reads them again."""
        if tensor.name not in self.places:
            return False
        return self.journal is None or self.journal.get(tensor.name) == tensor.sha256


def read_holdings(directory: Path) -> Holdings:
    """Raises ModelNotFound where there are no weights, ShardMismatch for a broken weight file."""
    return Holdings(read_present(directory), read_journal(directory))


def read_journal(directory: Path) -> dict[str, bytes] | None:
    """The journal's tensors and their SHA-256; None where there is none.

    A line that is not whole (a pull was killed while it wrote) counts as not written. A line with
    an empty hash takes the tensor back.
    """
    path = directory / JOURNAL_NAME
    if not path.is_file():
        return None
    if path.stat().st_size > JOURNAL_BYTES_MAX:
        raise ShardMismatch(f"'{path}' is no journal: it is above {JOURNAL_BYTES_MAX} bytes.")
    found: dict[str, bytes] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            entry = json.loads(line)
            name, digest = str(entry["tensor"]), bytes.fromhex(entry["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if len(digest) == HASH_BYTES:
            found[name] = digest
        else:
            found.pop(name, None)
    return found


def read_manifest(directory: Path) -> ModelManifest | None:
    """The manifest that a pull or a split has left beside the weights. Raises WeightsCorrupt."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return ModelManifest.decode(path.read_bytes())
    except RemoteProtocolError as error:
        raise WeightsCorrupt(
            f"The manifest '{path}' is broken: {error}", hint="Remove it and pull again."
        ) from error


def is_of_shard(tensor: TensorEntry, span: Span, ends: bool) -> bool:
    return span.start <= tensor.layer < span.end or (ends and tensor.layer == ENDS)


def missing_tensors(
    manifest: ModelManifest, holdings: Holdings, span: Span, ends: bool
) -> list[TensorEntry]:
    """What a shard needs and this directory has not."""
    return [
        tensor
        for tensor in manifest.tensors
        if is_of_shard(tensor, span, ends) and not holdings.has(tensor)
    ]


def pull_hint(name: str, span: Span, ends: bool) -> str:
    """What to type to fetch a shard."""
    return f"Fetch it: piecework models pull {name} --span {span}{' --ends' if ends else ''}"


def verify_span(manifest: ModelManifest, directory: Path, span: Span, ends: bool) -> None:
    """Read a shard's tensors and compare them with the manifest, and the files that go with them.

    `ends` adds embedding, final norm, LM head and the tokenizer. Raises ShardMismatch for what is
    not here, with what to type, and WeightsCorrupt, which names the tensor.
    """
    _verify_file(directory / "config.json", manifest.config_sha256)
    if ends:
        _verify_file(directory / "tokenizer.json", manifest.tokenizer_sha256)
    holdings = read_holdings(directory)
    if missing := missing_tensors(manifest, holdings, span, ends):
        raise ShardMismatch(
            f"{len(missing)} tensors of layers {span}{' and the ends' if ends else ''} of "
            f"{manifest.name} are not here, '{missing[0].name[:64]}' among them.",
            hint=pull_hint(manifest.name, span, ends),
        )
    shard = [tensor for tensor in manifest.tensors if is_of_shard(tensor, span, ends)]
    for tensor in wrong_tensors(shard, holdings, directory):
        raise WeightsCorrupt(
            f"Tensor '{tensor.name}' in '{tensor.file}' is not the manifest's.",
            hint=f"Run: piecework models verify {manifest.name}, then fetch it again.",
        )


def wrong_tensors(
    tensors: Iterable[TensorEntry], holdings: Holdings, directory: Path
) -> Iterable[TensorEntry]:
    """Those tensors that are here and whose bytes are not the manifest's; reads them all."""
    for tensor in tensors:
        if holdings.has(tensor):
            place = holdings.places[tensor.name]
            if hash_range(directory / place.file, place.start, place.end) != tensor.sha256:
                yield tensor


def layer_bytes(manifest: ModelManifest) -> tuple[int, ...]:
    """Stored bytes of each layer, from layer 0."""
    sizes = Counter[int]()
    for tensor in manifest.tensors:
        sizes[tensor.layer] += tensor.size_bytes
    return tuple(sizes[layer] for layer in range(manifest.layers))


def _verify_file(path: Path, sha256: bytes) -> None:
    if not path.is_file() or hash_range(path, 0, path.stat().st_size) != sha256:
        raise WeightsCorrupt(f"'{path.name}' is not the manifest's.", hint="Fetch it again.")
