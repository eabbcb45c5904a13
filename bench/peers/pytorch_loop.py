"""ResNet-101 and an LSTM with soft attention, beam search picture by picture, as PyTorch tutorials write it.

Xu et al. 2015 with the sizes such tutorials have: pictures of 256 pixels, a grid of 14 x 14 cells, 512 everywhere, and
random weights. END is barred, so that every caption has the same number of words. Our own re-statement.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from beside_torch import prepare_torchvision
from PIL import Image
from serving import Settings, System, Work, run_process
from torch import Tensor, nn

prepare_torchvision()

from torchvision import models, transforms  # noqa: E402

SIDE = 256
GRID = 14  # cells along a side, after pooling
WIDTH = 2048
SIZE = 512  # of words, states and attention
VOCABULARY = 9_490  # words that MS COCO's captions have five times or more
START, END = 1, 2


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(models.resnet101(weights=None).children())[:-2])
        self.pool = nn.AdaptiveAvgPool2d(GRID)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Features (B, L, D)."""
        return self.pool(self.body(pixels_BCHW)).flatten(2).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, SIZE)
        self.of_cells = nn.Linear(WIDTH, SIZE)
        self.of_state = nn.Linear(SIZE, SIZE)
        self.energy = nn.Linear(SIZE, 1)
        self.gate = nn.Linear(SIZE, WIDTH)
        self.initial_hidden = nn.Linear(WIDTH, SIZE)
        self.initial_cell = nn.Linear(WIDTH, SIZE)
        self.cell = nn.LSTMCell(SIZE + WIDTH, SIZE)
        self.output = nn.Linear(SIZE, VOCABULARY)

    def start(self, features_KLD: Tensor) -> tuple[Tensor, Tensor]:
        mean_KD = features_KLD.mean(1)
        return self.initial_hidden(mean_KD), self.initial_cell(mean_KD)

    def step(self, tokens_K: Tensor, features_KLD: Tensor, hidden_KH: Tensor, cell_KH: Tensor) -> tuple[Tensor, ...]:
        """(log-probabilities (K, V) of the next word, the new state)."""
        of_state_K1H = self.of_state(hidden_KH).unsqueeze(1)
        energy_KL1 = self.energy(torch.relu(self.of_cells(features_KLD) + of_state_K1H))
        context_KD = (torch.softmax(energy_KL1, 1) * features_KLD).sum(1)
        context_KD = torch.sigmoid(self.gate(hidden_KH)) * context_KD
        hidden_KH, cell_KH = self.cell(torch.cat([self.words(tokens_K), context_KD], 1), (hidden_KH, cell_KH))
        return torch.log_softmax(self.output(hidden_KH), 1), hidden_KH, cell_KH


def search(decoder: Decoder, features_1LD: Tensor, beam: int, words: int) -> Tensor:
    """The best caption of one picture, token ids (T,) without START."""
    features_KLD = features_1LD.expand(beam, -1, -1)
    hidden_KH, cell_KH = decoder.start(features_KLD)
    said_KT = torch.full((beam, 1), START)
    totals_K1 = torch.zeros(beam, 1)
    for place in range(words):
        logprobs_KV, hidden_KH, cell_KH = decoder.step(said_KT[:, -1], features_KLD, hidden_KH, cell_KH)
        logprobs_KV[:, END] = -torch.inf
        totals_KV = totals_K1 + logprobs_KV
        best_K, at_K = (totals_KV[0] if place == 0 else totals_KV.flatten()).topk(beam)
        rows_K, tokens_K = at_K // VOCABULARY, at_K % VOCABULARY
        said_KT = torch.cat([said_KT[rows_K], tokens_K.unsqueeze(1)], 1)
        hidden_KH, cell_KH, totals_K1 = hidden_KH[rows_K], cell_KH[rows_K], best_K.unsqueeze(1)
    return said_KT[totals_K1.argmax(), 1:]


def write(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"encoder": Encoder().state_dict(), "decoder": Decoder().state_dict()}, folder / "checkpoint.pt")


def load(name: str, settings: Settings) -> System:
    torch.set_num_threads(settings.threads)
    encoder, decoder = Encoder().eval(), Decoder().eval()
    checkpoint = torch.load(Path(settings.folder) / "checkpoint.pt", weights_only=True)
    encoder.load_state_dict(checkpoint["encoder"])
    decoder.load_state_dict(checkpoint["decoder"])
    prepare = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    @torch.no_grad()
    def caption(pictures: list[bytes]) -> list[int]:
        found = []
        for data in pictures:
            pixels_CHW = prepare(Image.open(io.BytesIO(data)).convert("RGB"))
            found.append(len(search(decoder, encoder(pixels_CHW.unsqueeze(0)), settings.beam, settings.words)))
        return found

    parameters = sum(parameter.numel() for part in (encoder, decoder) for parameter in part.parameters())
    return System({"captions": Work(caption, 1)}, {"version": f"torch {torch.__version__}", "parameters": parameters})


if __name__ == "__main__":
    run_process(write, load)
