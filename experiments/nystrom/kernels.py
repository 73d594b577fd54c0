"""The names of kernels, for settings and for figures, which are drawn where neither torch nor pydantic is installed."""

KERNELS = ("linear", "rbf", "chi2", "exp_chi2")
NO_KERNEL = "none"  # of a dense top
