"""How near each picture lies to each caption -> recall at 1, 5 and 10 and the median rank, in both directions.

As Kiros et al. 2014 and Karpathy & Fei-Fei 2015 (section 4.1) report it: a picture looks for its captions among all
captions and its best-placed caption counts; a caption looks for its picture among all pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.errors import DataError

DEPTHS = (1, 5, 10)
_BLOCK = 1 << 22  # similarities looked at together: 4 M comparisons take 4 MB


def retrieval(similarity_BN: ArrayLike, owner_N: ArrayLike) -> dict[str, float]:
    """The scores of both directions by name: `image to text R@1`, … `R@5`, `R@10`, `image to text median rank`, and the
    same of `text to image`; and `mean recall`, of the six R@K.

    Ranks are those of `retrieval_ranks`: what is as similar as the right answer stands before it, so a model that
    finds everything equally similar finds nothing.

    Shape: as `retrieval_ranks`.
    Units: R@K is the share of queries, from 0 to 1, whose answer is among the first K. Ranks count from 1; of an even
        number of queries the median lies between two ranks and is rounded down to a whole rank, as the authors' code
        does (`floor(median of ranks from 0) + 1`, the same number).

    Raises:
        ValueError, DataError: As `retrieval_ranks`.
    """
    scores: dict[str, float] = {}
    for direction, ranks in zip(
        ("image to text", "text to image"), retrieval_ranks(similarity_BN, owner_N), strict=True
    ):
        for depth in DEPTHS:
            scores[f"{direction} R@{depth}"] = float((ranks <= depth).mean())
        scores[f"{direction} median rank"] = float(np.floor(np.median(ranks)))
    recalls = [value for name, value in scores.items() if " R@" in name]
    return {**scores, "mean recall": float(np.mean(recalls))}


def retrieval_ranks(similarity_BN: ArrayLike, owner_N: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rank of each picture's best caption, and the rank of each caption's picture; 1 is the best.

    A rank is 1 + the number of wrong answers at least as similar as the right one: a tie counts against. (Sorting would
    let the order of the input decide, and data sets list a picture's own captions in its place.)

    Shape: `similarity_BN` real numbers, larger is more similar, a memory map will do; `owner_N` for each caption the
        index of its picture in B. Returns (B,) and (N,) int64. Beside the results it needs a few MB, whatever B x N.

    Raises:
        ValueError: The shapes or types do not fit, or an owner is not a picture.
        DataError: A similarity is NaN, or a picture has no caption to look for.

    Source: Kiros, Salakhutdinov & Zemel 2014, section 3.1; Karpathy & Fei-Fei 2015, section 4.1. Differs from both in
        the treatment of ties.
    """
    similarity, owner = _checked(similarity_BN, owner_N)
    pictures, captions = similarity.shape
    right = similarity[owner, np.arange(captions)]
    best = np.full(pictures, -np.inf, similarity.dtype)
    np.maximum.at(best, owner, right)
    text_rank = 1 - np.bincount(owner, right >= best[owner], pictures).astype(np.int64)  # its own are no wrong answers
    image_rank = np.zeros(captions, np.int64)  # its own picture is as similar as itself: the 1 of the first rank
    rows = max(1, _BLOCK // captions)
    for start in range(0, pictures, rows):
        block = similarity[start : start + rows]
        if np.isnan(block).any():
            picture, caption = np.argwhere(np.isnan(block))[0]
            raise DataError(
                f"the similarity of picture {start + picture} and caption {caption} is not a number, so nothing can be "
                "ranked; look for NaN or zero vectors in what was compared"
            )
        text_rank[start : start + rows] += np.count_nonzero(block >= best[start : start + rows, None], axis=1)
        image_rank += np.count_nonzero(block >= right, axis=0)
    return text_rank, image_rank


def _checked(similarity_BN: ArrayLike, owner_N: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    similarity = np.asarray(similarity_BN)
    owner = np.asarray(owner_N)
    if similarity.dtype.kind in "iub":
        similarity = similarity.astype(np.float64)
    if similarity.dtype.kind != "f" or similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(
            f"similarities of shape {similarity.shape} and type {similarity.dtype}; give real numbers, one row a "
            "picture and one column a caption"
        )
    pictures, captions = similarity.shape
    if owner.shape != (captions,) or owner.dtype.kind not in "iu":
        raise ValueError(
            f"owners of shape {owner.shape} and type {owner.dtype} for {captions} captions; give each caption the "
            "index of its picture"
        )
    if owner.min() < 0 or owner.max() >= pictures:
        caption = int(np.flatnonzero((owner < 0) | (owner >= pictures))[0])
        raise ValueError(f"caption {caption} belongs to picture {owner[caption]}, but there are {pictures} pictures")
    owned = np.bincount(owner.astype(np.intp), minlength=pictures)
    if not owned.all():
        lonely = np.flatnonzero(owned == 0)
        raise DataError(
            f"{len(lonely)} of {pictures} pictures have no caption to look for (the first is {lonely[0]}); "
            "leave their rows out"
        )
    return similarity, owner.astype(np.intp)
