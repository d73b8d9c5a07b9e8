from clibd_runs import model  # noqa: F401
from training_runs import datasets_cache  # noqa: F401
