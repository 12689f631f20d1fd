"""What PyTorch may not trade for speed on a GPU.

By default cuBLAS may add up parts of a long sum in half precision, so that the same row comes out
further off in one number of rows than in another. And an fp32 product may be made of TF32's 10 bits
where somebody says so, or the environment does: then fp32 on a GPU is no longer what it is on a
CPU, with which tests compare it. Triton's products are asked for in full where they are written.
"""

from __future__ import annotations

import torch


def keep_precision() -> None:
    """For the whole process: sums of half-precision products in fp32, fp32 products in fp32."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_accumulation = False
    matmul.allow_tf32 = False
