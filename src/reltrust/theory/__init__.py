"""Tools of theory, each of use alone: curvature, initialisation, spectra, naturality, polynomial networks.

They import torch, numpy, scipy and sympy alone; spectra and dimensions import no torch.
"""
