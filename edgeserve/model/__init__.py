"""The computation: one slice of a model, packed tokens in, hidden states or logits out.

Nothing here knows of a network. One decoder block, driven by the spec, serves all families. Letters
at the end of tensor names are their dimensions; each file has its legend.

`Slice.forward` is the reference, in plain PyTorch, and what a CPU runs; `fused.py` is the same for
a GPU, with the kernels of `kernels/`. Products are prepared at load: `packed.py` finds the fastest
layout for this CPU, `quantised.py` makes them smaller.

Not covered: keys and values in fewer bits; tensor parallelism; training.
"""
