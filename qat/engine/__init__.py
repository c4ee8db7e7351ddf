"""A layer's whole time loop as compiled code, for CPU and CUDA."""
