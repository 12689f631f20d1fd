"""The computation: one slice of a model, packed tokens in, hidden states or logits out.

Nothing here knows of a network. One decoder block, driven by the spec, serves all families. Letters
at the end of tensor names are their dimensions; each file has its legend.

Not covered: kernels that read the page table on the device (the reference path here is PyTorch's
own attention, one call for each sequence); CUDA graphs; quantised weights or keys and values;
tensor parallelism; training.
"""
