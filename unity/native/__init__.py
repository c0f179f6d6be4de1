"""The ops of kernels/reference.py in C++ (csrc/), for CPUs: float32 or bfloat16 tensors, float32 arithmetic.

A file here per file of csrc/. Each op has a refusal beside it, which says why it cannot take the arguments; the op
itself assumes that it can. Sums over rows are formed in a fixed order: the same inputs give the same bits on any
number of threads.
"""
