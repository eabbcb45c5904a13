"""BLIP-base, GIT-base and ViT-GPT2 as Hugging Face `transformers` has them, with random weights.

Sizes are those of the published models, which are the defaults of their configurations. Random weights take as long as
learned ones, but would end their captions anywhere; so END is barred, and all have the same number of tokens. They are
written to files first, for loading them is what a user waits for.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
import transformers
from beside_torch import prepare_torchvision
from PIL import Image
from serving import Settings, System, Work, run_process

prepare_torchvision()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CLASSES = {  # of each: the model and its picture processor
    "blip": ("BlipForConditionalGeneration", "BlipImageProcessor"),
    "git": ("GitForCausalLM", "CLIPImageProcessor"),
    "vit-gpt2": ("VisionEncoderDecoderModel", "ViTImageProcessor"),
}
PROCESSORS: dict[str, dict[str, Any]] = {  # where the published settings differ from the class's
    "blip": {},
    "git": {},
    "vit-gpt2": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
}
GPT2_END = 50_256  # PAD and START too
TOKENS = {
    "blip": {},  # its `generate` takes them from the configuration
    "git": {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0},
    "vit-gpt2": {"decoder_start_token_id": GPT2_END, "eos_token_id": GPT2_END, "pad_token_id": GPT2_END},
}


def build_config(name: str) -> Any:
    if name == "blip":
        return transformers.BlipConfig()
    if name == "git":
        return transformers.GitConfig()
    vision, text = transformers.ViTConfig(), transformers.GPT2Config(add_cross_attention=True, is_decoder=True)
    return transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)


def write(name: str, folder: Path) -> None:
    model, processor = (getattr(transformers, each) for each in CLASSES[name])
    torch.manual_seed(0)
    model(build_config(name)).save_pretrained(folder)
    processor(**PROCESSORS[name]).save_pretrained(folder)


def load(name: str, settings: Settings) -> System:
    torch.set_num_threads(settings.threads)
    model_class, processor_class = (getattr(transformers, each) for each in CLASSES[name])
    model = model_class.from_pretrained(settings.folder).eval()
    processor = processor_class.from_pretrained(settings.folder)
    length = {"min_new_tokens": settings.words, "max_new_tokens": settings.words}

    def caption(pictures: list[bytes]) -> list[int]:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
        pixels_BCHW = processor(images=images, return_tensors="pt")["pixel_values"]
        how = {"num_beams": settings.beam, "do_sample": False, **length, **TOKENS[name]}
        tokens_BT = model.generate(pixel_values=pixels_BCHW, **how)
        return [tokens_BT.shape[1] - 1] * len(images)  # START is no word

    parameters = sum(parameter.numel() for parameter in model.parameters())
    about = {"version": f"transformers {transformers.__version__}, torch {torch.__version__}", "parameters": parameters}
    return System({"captions": Work(caption, settings.batch)}, about)


if __name__ == "__main__":
    run_process(write, load)
