"""How the next token is chosen from a row of logits, as data. `model/sampling.py` chooses."""

from __future__ import annotations

from dataclasses import dataclass

BIASES_MAX = 300
"""OpenAI's bound, too."""
SEED_MAX = 2**64 - 1
"""Seeds are the 64-bit key of a counter-based generator."""
PENALTY_MAX = 2.0
"""Of presence and frequency, either way: OpenAI's bound."""
TOP_LOGPROBS_MAX = 20
"""OpenAI's bound; TGI's is 5 unless its operator allows more."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The defaults are greedy.

    The order of the filters is that of transformers and vLLM: logit bias, repetition penalty,
    frequency and presence penalty, temperature, top-k, top-p, min-p.
    """

    temperature: float = 0.0
    """0 is greedy: the most likely token. Otherwise logits are divided by it."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together reach this probability."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Logits of tokens seen so far are divided by it if positive, multiplied if negative
    (arXiv:1909.05858).
    """
    presence_penalty: float = 0.0
    """From -2 to 2: taken once from the logit of each token generated so far. The prompt's do not
    count, here and with the next, as OpenAI has it.
    """
    frequency_penalty: float = 0.0
    """From -2 to 2: taken from a token's logit for each time that it was generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits: from -100, which bans, to 100, which leaves no
    other. At most `BIASES_MAX`, each once.
    """
    seed: int = 0
    top_logprobs: int = 0
    """How many of the most likely tokens are told beside the chosen one, at most
    `TOP_LOGPROBS_MAX`. It changes nothing of the choice.
    """

    @property
    def needs_history(self) -> bool:
        """Whether the last stage has to know which tokens came before."""
        return self.repetition_penalty != 1.0 or self.counts_tokens

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how often a token was generated."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def takes_most_likely(self) -> bool:
        """Whether the choice is the most likely token of the logits as the model has them."""
        return self.temperature == 0.0 and not self.needs_history and not self.logit_bias
