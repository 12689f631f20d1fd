"""What the HTTP side is made of, and the few facts of the model that it goes by."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from edgeserve.clock import Clock, MonotonicClock
from edgeserve.errors import NotFound
from edgeserve.gateway.edge.keys import KeyRing
from edgeserve.gateway.edge.loop_lag import LoopLag
from edgeserve.gateway.text.chat_template import ChatTemplate
from edgeserve.gateway.text.grammar import Guides
from edgeserve.gateway.text.tokenizer import Tokenizer
from edgeserve.pipeline.generation import Engine

PLACEHOLDERS = frozenset({"tgi", "dummy", "default"})
"""What clients send as `model` when nobody has named one: the client of Text Generation Inference
and older huggingface_hub say tgi, huggingface_hub says dummy, and SGLang's examples say default.
"""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    name: str
    """The first of its names, which logs, metrics and traces use."""
    weights: Literal["real", "random"]
    context_tokens: int
    """The most tokens of prompt and answer together."""
    vocab: int
    """Rows of the embedding: no stage is ever sent a token id that is not below it."""
    eos_ids: frozenset[int]
    """Tokens with which the model says that it is done."""
    aliases: tuple[str, ...] = ()
    """Its other names."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def served_as(self, wanted: str | None) -> str:
        """The name that an answer carries if a request is for the model `wanted`: the same if it is
        one of ours, else the first one. None and `PLACEHOLDERS` stand for any model, and a path or
        a repository ends in the name of its model.

        Raises NotFound for another model.
        """
        if wanted is None:
            return self.name
        for name in self.names:
            if wanted == name:
                return name
        for name in self.names:
            if _last_parts_agree(wanted, name):
                return name
        if wanted in PLACEHOLDERS:
            return self.name
        served = " or ".join(self.names)
        raise NotFound(
            f"the model is {served}, and no other is served; ask for {self.name}, or leave model "
            "out",
            param="model",
            code="model_not_found",
        )


def _last_parts_agree(wanted: str, name: str) -> bool:
    """Whether the shorter one of two paths is the end of the other."""
    wanted_parts, parts = wanted.rstrip("/").split("/"), name.split("/")
    count = min(len(wanted_parts), len(parts))
    return wanted_parts[-count:] == parts[-count:]


@dataclass(frozen=True, kw_only=True)
class AppState:
    engine: Engine
    model: ModelFacts
    tokenizer: Tokenizer
    clock: Clock
    chat_template: ChatTemplate | None = None
    """None: the model has none."""
    loop_lag: LoopLag = field(default_factory=LoopLag)
    keys: KeyRing = field(default_factory=lambda: KeyRing((), MonotonicClock()))
    """Of whom is let in; without any, everybody is."""
    cors_origins: tuple[str, ...] = ()
    """Whose pages a browser lets ask, and read the answer; * is anybody's."""
    keep_alive_s: float = 15.0
    """Silence on a stream after which a comment is sent, since proxies cut idle connections after
    30 to 60 s.
    """

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """What the model's configuration and its tokenizer's call an end, of the tokens that can
        come: each alone leaves out the end of a turn for some published chat models.
        """
        named = self.model.eos_ids | self.tokenizer.eos_ids
        return frozenset(each for each in named if 0 <= each < self.model.vocab)

    @cached_property
    def guides(self) -> Guides:
        """What holds answers to a grammar."""
        return Guides(self.tokenizer, self.eos_ids, self.model.vocab)

    @property
    def capabilities(self) -> list[str]:
        """What the model can be asked for: 'completion', 'chat' and 'tools'."""
        template = self.chat_template
        can_call = template is not None and template.call_syntax is not None
        chat, tools = ["chat"] if template else [], ["tools"] if can_call else []
        return ["completion", *chat, *tools]

    def notes(self) -> dict[str, str]:
        """What has to be said beside every answer: whatever makes it mean less than it seems."""
        random = {"weights": "random"} if self.model.weights == "random" else {}
        simulation = self.engine.status().simulation
        return random | ({"simulation": simulation} if simulation else {})
