"""InceptionV3 and an LSTM beside it, greedy, as tutorials on Flickr8k write it; Keras 3 on PyTorch, random weights.

One picture after the other: `predict` for its features; then for each word the words so far, padded to the longest
caption of the training set, and `predict` again. Our own re-statement of how such code goes.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch
from keras import layers
from keras.applications.inception_v3 import InceptionV3, preprocess_input
from serving import Settings, System, Work, run_process

VOCABULARY = 7_579  # words that Flickr8k's training captions have, PAD at 0
LONGEST = 34  # words of its longest caption
WIDTH = 256
SIDE = 299
START = 1


def build_decoder() -> keras.Model:
    """(features, words so far) -> the next word; the picture is added to the sentence's last state ("merge")."""
    features, words = keras.Input((2048,)), keras.Input((LONGEST,))
    seen = layers.Dense(WIDTH, activation="relu")(layers.Dropout(0.5)(features))
    said = layers.Embedding(VOCABULARY, WIDTH, mask_zero=True)(words)
    said = layers.LSTM(WIDTH)(layers.Dropout(0.5)(said))
    joined = layers.Dense(WIDTH, activation="relu")(layers.add([seen, said]))
    return keras.Model([features, words], layers.Dense(VOCABULARY, activation="softmax")(joined))


def write(name: str, folder: Path) -> None:
    keras.utils.set_random_seed(0)
    whole = InceptionV3(weights=None)
    folder.mkdir(parents=True, exist_ok=True)
    keras.Model(whole.inputs, whole.layers[-2].output).save(folder / "encoder.keras")
    build_decoder().save(folder / "decoder.keras")


def load(name: str, settings: Settings) -> System:
    torch.set_num_threads(settings.threads)
    encoder, decoder = (
        keras.models.load_model(Path(settings.folder) / f"{part}.keras") for part in ("encoder", "decoder")
    )

    def caption(pictures: list[bytes]) -> list[int]:
        return [caption_picture(data) for data in pictures]

    def caption_picture(data: bytes) -> int:
        image = keras.utils.load_img(io.BytesIO(data), target_size=(SIDE, SIDE))
        pixels = preprocess_input(np.expand_dims(keras.utils.img_to_array(image), 0))
        features = encoder.predict(pixels, verbose=0)
        said = [START]
        for _ in range(settings.words):
            padded = keras.utils.pad_sequences([said], maxlen=LONGEST)
            said.append(int(np.argmax(decoder.predict([features, padded], verbose=0))))
        return len(said) - 1

    about = {
        "version": f"keras {keras.__version__}, torch {torch.__version__}",
        "parameters": encoder.count_params() + decoder.count_params(),
    }
    return System({"captions": Work(caption, 1)}, about)


if __name__ == "__main__":
    run_process(write, load)
