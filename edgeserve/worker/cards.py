"""Cards that a worker can be paced like: what their data sheets say, and what programs get of it.

Numbers only. How they become the time of a frame is `pace.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve.errors import BadSettings
from edgeserve.families.spec import Dtype

MIB = 2**20
READ_SHARE = 0.85
"""Of the data sheet's memory bandwidth, from one token to the next, launches and gaps included:
llama.cpp decodes Mistral 7B in fp16 on an RTX 4090 at 58.3 tokens/s, 845 of 1008 GB/s. Hence no
further overhead for each frame here; the wire's is not simulated, it is there."""
COMPUTE_SHARE = 0.75
"""Of the data sheet's products, in matrix multiplications of a few hundred rows. An estimate."""


@dataclass(frozen=True, kw_only=True)
class Card:
    name: str
    memory_bytes: int
    """What CUDA shows of it."""
    memory_bytes_per_s: float
    flop_per_s: float
    """fp16 and bf16 on tensor cores, summed in fp32."""

    @property
    def read_bytes_per_s(self) -> float:
        """What a program gets."""
        return READ_SHARE * self.memory_bytes_per_s

    def takes_s(self, read_bytes: int, flop: int, dtype: Dtype) -> float:
        """The roofline: memory and arithmetic run beside each other, and the slower one counts.

        fp32 leaves the tensor cores for units of half their rate.
        """
        flop_per_s = COMPUTE_SHARE * self.flop_per_s / (2 if dtype is Dtype.FP32 else 1)
        return max(read_bytes / self.read_bytes_per_s, flop / flop_per_s)


CARDS = {
    card.name: card
    for card in (
        Card(
            name="rtx-3060",
            memory_bytes=11_906 * MIB,
            memory_bytes_per_s=360e9,  # 15 Gbit/s on 192 bits
            # 28 SM x 4 tensor cores x 64 FMA x 2 x 1.777 GHz. GeForce halves the rate of sums in
            # fp32: 128 FMA in fp16.
            flop_per_s=25.5e12,
        ),
    )
}


def card_named(name: str) -> Card:
    if name not in CARDS:
        raise BadSettings(f"--pace {name!r}: no such card is known; known are {', '.join(CARDS)}")
    return CARDS[name]
