"""Models of the Hugging Face hub: one revision for all boxes, and on each box only its files.

The gateway asks once which commit a name means, and fetches the configuration and the tokenizer.
Each worker is told `org/name@commit` and fetches what holds the tensors of its stage, into the
hub's own cache; from then on it is a folder like any other.

What it refuses to know: how bytes are fetched, resumed and kept, and where tokens come from, all of
which is `huggingface_hub`'s. Not called "hub", since that is what the gateway is to its workers.

Not covered: weights that are no safetensors, code that comes with a model, data sets, uploads.
"""
