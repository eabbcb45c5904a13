"""Seconds and memory to read annotations as large as COCO's, and pictures from a zip against pictures from a folder.

    .venv/bin/python bench/datasets.py [--pictures 123287] [--captions 616767]

The annotations are made up: two captions_*.json in COCO's form and dataset_coco.json in Karpathy's, with captions of
ten words, and the pictures are empty members of train2014.zip and val2014.zip. Each reading is a fresh process that
goes once through all captions; its memory is the peak of the whole process, in MB of 10^6 bytes.
The second part reads the example photographs, 500 copies of them, with `read_ahead` and four threads: the best of
three turns, folder and zip by turns. The third reads bytes alone, without decoding them, in random order.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from showtell.datasets.files import read_bytes
from showtell.images import Preprocessing, read_ahead

WORDS = "a the man woman dog cat red blue small large sits runs on in near table street grass ball with of two"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

READ = """
import sys, time
from pathlib import Path
began = time.perf_counter()
from showtell.datasets import read_data
imported = time.perf_counter() - began
examples = read_data(sys.argv[1], layout=sys.argv[2])
captions = sum(len(caption) > 0 for example in examples for caption in example.references)
seconds = time.perf_counter() - began
lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would begin with the parent's peak
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
print(f"{sys.argv[2]}: {len(examples):,} pictures, {captions:,} captions: {seconds:.2f} s ({imported:.2f} of them "
      f"imports), {peak:.0f} MB")
"""


def make_annotations(folder: Path, pictures: int, captions: int) -> None:
    """COCO 2014's files, two thirds of them train, and Karpathy's splits of the same pictures."""
    rng = random.Random(0)
    (folder / "annotations").mkdir()
    train = pictures * 2 // 3
    splits = []
    for name, numbers in (("train2014", range(train)), ("val2014", range(train, pictures))):
        images, annotations = [], []
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for number in numbers:
                file_name = f"COCO_{name}_{number:012d}.jpg"
                archive.writestr(f"{name}/{file_name}", b"")
                url = f"http://images.cocodataset.org/{name}/{file_name}"
                images.append({"id": number, "file_name": file_name, "height": 480, "width": 640, "coco_url": url})
                count = captions * (number + 1) // pictures - captions * number // pictures
                raw = [" ".join(rng.choices(WORDS.split(), k=10)) + f" {number}" for _ in range(count)]
                annotations += [{"image_id": number, "id": len(annotations), "caption": text} for text in raw]
                sentences = [{"tokens": text.split(), "raw": text, "imgid": number, "sentid": 0} for text in raw]
                split = "train" if name == "train2014" else ("val", "test", "restval")[number % 3]
                splits.append(
                    {"filepath": name, "filename": file_name, "split": split, "imgid": number, "sentences": sentences}
                )
        listing = {"info": {}, "images": images, "licenses": [], "annotations": annotations}
        (folder / "annotations" / f"captions_{name}.json").write_text(json.dumps(listing))
    (folder / "dataset_coco.json").write_text(json.dumps({"images": splits, "dataset": "coco"}))


def make_pictures(folder: Path, copies: int) -> tuple[list[str], list[str]]:
    """The sources of the same pictures in a folder and in a zip."""
    photos = sorted(EXAMPLES.glob("*.jpg"))
    names = [f"{number}.jpg" for number in range(copies)]
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number, name in enumerate(names):
            data = photos[number % len(photos)].read_bytes()
            (folder / name).write_bytes(data)
            archive.writestr(name, data)
    return [f"{folder}/{name}" for name in names], [f"{folder}/photos.zip!{name}" for name in names]


def decode_all(sources: Sequence[str], threads: int) -> None:
    for _, pixels in read_ahead(((name, name) for name in sources), Preprocessing(), readers=threads, ahead=64):
        if isinstance(pixels, Exception):
            raise pixels


def read_all_bytes(sources: Sequence[str], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for data in pool.map(read_bytes, random.Random(0).sample(sources, len(sources))):
            assert data


def print_rates(what: str, read: Callable[[Sequence[str], int], None], places: Sequence[Sequence[str]]) -> None:
    seconds = [float("inf"), float("inf")]
    for _ in range(3):
        for place, sources in enumerate(places):
            began = time.perf_counter()
            read(sources, 4)
            seconds[place] = min(seconds[place], time.perf_counter() - began)
    plain, packed = (len(places[0]) / value for value in seconds)
    print(f"{what}, 4 threads: folder {plain:,.0f}/s, zip {packed:,.0f}/s, {packed / plain:.2f} of the folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=123_287)
    parser.add_argument("--captions", type=int, default=616_767)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_annotations(Path(folder), arguments.pictures, arguments.captions)
        for layout in ("coco", "karpathy"):
            subprocess.run([sys.executable, "-c", READ, folder, layout], check=True)
    with tempfile.TemporaryDirectory() as folder:
        places = make_pictures(Path(folder), 500)
        print_rates("pictures decoded", decode_all, places)
        print_rates("files read", read_all_bytes, places)


if __name__ == "__main__":
    main()
