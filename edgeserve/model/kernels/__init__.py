"""What PyTorch has no kernel for, in Triton: attention over pages, four fusions of small steps, and
linear layers that read packed weights.

One file for each kernel, with the function that launches it. They compute in fp32 whatever they
read, take tensors on one device, wait for nothing, and may be recorded in a CUDA graph. With
TRITON_INTERPRET=1 the same code runs on a CPU, which is how the tests look at it where no GPU is.

Triton is imported here and nowhere else, and this package only where there is a GPU: PyTorch's CPU
builds come without Triton.

Not covered: training; tuning itself to a card.
"""
