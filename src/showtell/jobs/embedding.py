"""Blocks of paths -> the embeddings of their pictures, by the actors of a cluster; for `showtell.indexing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from showtell.alignment import Aligner
from showtell.bundle import Bundle
from showtell.cluster import Cluster, spread
from showtell.images import DEFAULT_LIMITS, read_ahead
from showtell.indexing import Elsewhere, embed_group


def embed_on(cluster: Cluster, bundle: Bundle, *, batch: int = 16) -> Elsewhere:
    """Who encodes pictures in the place of this process, while the cluster is joined.

    Args:
        bundle: Of an alignment model.
        batch: Pictures that are encoded together.
    """

    def elsewhere(blocks: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[bytes, Sequence[str | None]]]]:
        return spread(partial(_Embedding, bundle, batch, cluster.cpus_per_actor), blocks, cluster)

    return elsewhere


class _Embedding:
    """Encodes blocks of pictures, in whichever process."""

    def __init__(self, bundle: Bundle, batch: int, threads: int) -> None:
        self._aligner, self._batch, self._threads = Aligner(bundle, threads=threads), batch, threads

    def __call__(self, paths: Sequence[str]) -> tuple[bytes, list[str | None]]:
        pictures = read_ahead(
            ((path, path) for path in paths),
            self._aligner.preprocessing,
            readers=self._threads,
            ahead=2 * self._batch,
            limits=DEFAULT_LIMITS,
        )
        rows, errors = [], []
        while group := list(islice(pictures, self._batch)):
            vectors, sentences = embed_group(self._aligner, [pixels for _, pixels in group])
            rows.append(vectors.astype("<f2").tobytes())
            errors += sentences
        return b"".join(rows), errors
