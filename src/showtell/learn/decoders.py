"""The recurrent decoder: features -> words, with the picture entering where `conditioning` says (Tanti et al. 2018).

One LSTM, one word embedding and one output layer serve every conditioning; they differ in what `start` computes once a
picture and in what `step` adds to the word at each step:

    conditioning   start                                        every step
    init           state from the mean feature                  -
    first          the projected mean feature is the first input -
    attention      state from the mean feature; keys, values     a soft attention over the grid, gated
    concepts       confidences of content words -> context       the context

`memory` is what stays the same for a picture (axis 0: pictures, never copied per hypothesis); `state` is what each
hypothesis owns (axis 0: hypotheses). With K hypotheses a picture, row n belongs to picture n // K.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from showtell.learn.config import ModelConfig
from showtell.text import PAD

State = dict[str, Tensor]


class Step(NamedTuple):
    """Shape: logits (N, V); alpha (N, L), the attention over the grid, or None."""

    logits_NV: Tensor
    state: State
    alpha_NL: Tensor | None


class Decoder(nn.Module):
    """An LSTM that writes a caption word by word (Vinyals et al. 2015, eqs. 4 to 11; Xu et al. 2015, sec. 3.1.2).

    Differs from Xu et al. in the attention's score, a scaled dot product in place of a perceptron, so that the
    hypotheses of a picture share its keys in one matrix product.

    Args:
        width: D, the features of one grid cell.
        vocabulary_size: V.
        concepts: C, the content words that `concepts` conditioning predicts (0 for the others).
    """

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> None:
        super().__init__()
        self.config = config
        embedding, hidden = config.embedding, config.hidden
        self.attends = config.conditioning == "attention"
        self.words = nn.Embedding(vocabulary_size, embedding, padding_idx=PAD)
        added = {"attention": config.attention, "concepts": embedding}.get(config.conditioning, 0)
        self.cell = nn.LSTM(embedding + added, hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden + (added if self.attends else 0), vocabulary_size)
        if config.conditioning == "first":
            self.project = nn.Linear(width, embedding)
        else:
            self.initial = nn.Linear(embedding if config.conditioning == "concepts" else width, 2 * hidden)
        if config.conditioning == "concepts":
            self.head = nn.Linear(width, concepts)
            self.context = nn.Linear(concepts, embedding)
        if self.attends:
            self.keys = nn.Linear(width, config.attention)
            self.values = nn.Linear(width, config.attention)
            self.query = nn.Linear(hidden, config.attention)
            self.gate = nn.Linear(hidden, 1)
        self._reset()

    def _reset(self) -> None:
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        with torch.no_grad():
            self.words.weight[PAD].zero_()
            hidden = self.config.hidden
            _, _, input_bias, hidden_bias = self.cell.all_weights[0]
            hidden_bias.zero_()
            input_bias.zero_()
            input_bias[hidden : 2 * hidden] = 1.0  # remember at first (Jozefowicz et al. 2015)
            nn.init.uniform_(self.output.weight, -0.1, 0.1)
            self.output.bias.zero_()

    def load_words(self, embedding_VE: Tensor, *, tune: bool) -> None:
        """Starts the embedding of words somewhere else; unless `tune`, it stays there."""
        with torch.no_grad():
            self.words.weight.copy_(embedding_VE)
        self.words.requires_grad_(tune)

    # once a picture

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        """(memory, state) before the first word, one hypothesis a picture."""
        pooled_BD = features_BLD.mean(1)
        if self.config.conditioning == "concepts":
            return self.start_from_concepts(self.head(pooled_BD))
        if self.config.conditioning == "first":
            zero = pooled_BD.new_zeros(pooled_BD.shape[0], self.config.hidden)
            return {}, self._advance(self.project(pooled_BD), {"hidden": zero, "cell": zero})
        memory = {}
        if self.attends:
            memory = {"keys": self.keys(features_BLD), "values": self.values(features_BLD)}
        return memory, self._initial_state(pooled_BD)

    def start_from_concepts(self, logits_BC: Tensor) -> tuple[State, State]:
        """The same from the content words' logits, for captions that have no picture.

        The square root spreads the small probabilities that most content words have. It is taken of the logarithm,
        since ONNX Runtime's sigmoid is off by 1e-7, which is 3e-4 after a root near zero.
        """
        roots_BC = torch.exp(-0.5 * functional.softplus(-logits_BC))
        context_BE = torch.tanh(self.context(roots_BC))
        return {"context": context_BE}, self._initial_state(context_BE)

    def _initial_state(self, source: Tensor) -> State:
        hidden, cell = self.initial(source).chunk(2, -1)
        return {"hidden": torch.tanh(hidden), "cell": cell}

    # once a word

    def step(self, tokens_N: Tensor, memory: State, state: State) -> Step:
        """The logits of the next word and the state after `tokens_N`."""
        seen_N, state, alpha_NL = self._see(tokens_N, memory, state)
        return Step(self.output(self.dropout(seen_N)), state, alpha_NL)

    def _see(self, tokens_N: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        """(what the output layer sees, the new state, the attention) after one word."""
        inputs = self.dropout(self.words(tokens_N))
        if self.attends:
            added, alpha_NL = self._attend(state["hidden"], memory)
            state = self._advance(torch.cat((inputs, added), -1), state)
            return torch.cat((state["hidden"], added), -1), state, alpha_NL
        if "context" in memory:
            context_BE = memory["context"]
            pictures = context_BE.shape[0]
            inputs_BKE = inputs.view(pictures, -1, context_BE.shape[1])
            shared_BKE = context_BE.unsqueeze(1).expand_as(inputs_BKE)
            inputs = torch.cat((inputs_BKE, shared_BKE), -1).flatten(0, 1)
        state = self._advance(inputs, state)
        return state["hidden"], state, None

    def _advance(self, inputs: Tensor, state: State) -> State:
        """One LSTM step (Hochreiter & Schmidhuber 1997), written out so that it exports as two matrix products."""
        from_input, from_hidden, input_bias, hidden_bias = self.cell.all_weights[0]
        gates = functional.linear(inputs, from_input, input_bias)
        gates = gates + functional.linear(state["hidden"], from_hidden, hidden_bias)
        enter, keep, new, leave = gates.chunk(4, -1)
        cell = torch.sigmoid(keep) * state["cell"] + torch.sigmoid(enter) * torch.tanh(new)
        return {"hidden": torch.sigmoid(leave) * torch.tanh(cell), "cell": cell}

    def _attend(self, hidden_NH: Tensor, memory: State) -> tuple[Tensor, Tensor]:
        """(context (N, A), alpha (N, L)): soft attention, scaled by the gate beta of Xu et al. 2015, sec. 4.2.1."""
        keys_BLA, values_BLA = memory["keys"], memory["values"]
        pictures, cells, width = keys_BLA.shape
        query_BKA = self.query(hidden_NH).view(pictures, -1, width)
        scores_BKL = query_BKA @ keys_BLA.transpose(1, 2) * width**-0.5
        alpha_BKL = scores_BKL.softmax(-1)
        context_NA = (alpha_BKL @ values_BLA).reshape(-1, width)
        return torch.sigmoid(self.gate(hidden_NH)) * context_NA, alpha_BKL.reshape(-1, cells)

    # a whole caption

    def forward(self, memory: State, state: State, tokens_NT: Tensor, rows_N: Tensor) -> Tensor:
        """Teacher forcing: the logits after each token.

        Args:
            memory: From `start`, B pictures.
            state: From `start`, B pictures.
            tokens_NT: N captions from START on, padded with PAD at the end.
            rows_N: The picture (0 to B - 1) of each caption; the references of a picture share its memory.

        Returns:
            (M, V): the M positions of `tokens_NT` that are not PAD, caption by caption.
        """
        state = {name: value[rows_N] for name, value in state.items()}
        real_NT = tokens_NT != PAD
        if self.attends:
            memory = {name: value[rows_N] for name, value in memory.items()}
            seen = []
            for tokens_N in tokens_NT.unbind(1):
                seen_N, state, _ = self._see(tokens_N, memory, state)
                seen.append(seen_N)
            return self.output(self.dropout(torch.stack(seen, 1)[real_NT]))
        inputs_NTE = self.dropout(self.words(tokens_NT))
        if "context" in memory:
            shared_NTE = memory["context"][rows_N].unsqueeze(1).expand(-1, tokens_NT.shape[1], -1)
            inputs_NTE = torch.cat((inputs_NTE, shared_NTE), -1)
        hidden_NTH, _ = self.cell(inputs_NTE, (state["hidden"][None], state["cell"][None]))
        return self.output(self.dropout(hidden_NTH[real_NT]))
