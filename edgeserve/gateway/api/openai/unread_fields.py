"""Fields of OpenAI's routes that are not served: those that change no text are accepted, and the
others are refused by name, unless they ask for nothing.

Clients send the first kind without being asked to, so a refusal would keep them out and tell nobody
anything. Ignoring one of the second kind would give an answer that means something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACCEPTED = frozenset(
    {
        # OpenAI's, about accounts, caches and billing
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "prompt_cache_options", "verbosity", "moderation",
        # vLLM's, about the order and the names of requests
        "priority", "request_id", "session_id", "spaces_between_special_tokens",
        # of clients and gateways in front
        "client_metadata", "cache_control", "extra_headers", "tags", "trace_id", "chat_id",
    }
)  # fmt: skip
"""Accepted without effect, whatever they hold."""

NOT_SERVED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "suffix": (None, ""),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "echo": (None, False),
    "tool_prompt": (None, ""),
    "documents": (None, []),
    "chat_template": (None,),
    "continue_final_message": (None, False),
    "prompt_embeds": (None,),
    "logprob_token_ids": (None,),
    "return_token_ids": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "include_reasoning": (None, True),
    "thinking_token_budget": (None,),
    "repetition_detection": (None,),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1.0, 1),
    "early_stopping": (None, False),
    "typical_p": (None, 1.0, 1),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "logits_processors": (None, []),
    "guided_grammar": (None,),
    "guided_decoding_backend": (None,),
    "guided_whitespace_pattern": (None,),
    "mm_processor_kwargs": (None, {}),
    "media_io_kwargs": (None, {}),
    "kv_transfer_params": (None, {}),
    "vllm_xargs": (None, {}),
}
"""The names, and the values that ask for nothing. A route that serves one of them does not refuse
it.
"""
