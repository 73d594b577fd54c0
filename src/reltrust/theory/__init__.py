"""Tools of theory, each of use alone: curvature by Lanczos, initialisation by data. They import torch alone."""
