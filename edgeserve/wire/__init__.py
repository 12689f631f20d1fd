"""Bytes between machines: what a frame looks like on the wire, and the two ends that exchange it.

Not covered: TLS; compression; a raw lane beside gRPC; transfer between workers.
"""

SERVICE = "edgeserve.v1.Worker"
"""As the protocol file names it."""
PROTOCOL = 5
"""Two ends that disagree on it refuse each other by name."""

EPOCH_METADATA = "edgeserve-epoch"
ERROR_METADATA = "edgeserve-error"

SOON = b""
"""Either end of Run may send it beside frames: a message is about to come this way. It wakes cores
and caches that have slept, and asks for nothing.
"""

MIB = 2**20
MESSAGE_BYTES_MAX = 64 * MIB
"""Set on both ends. gRPC's default of 4 MiB is 409 tokens of hidden 5120 in fp16; a 2048-token
frame of hidden 8192 in fp16 is 32 MiB.
"""
