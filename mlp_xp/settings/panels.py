"""The headings that settings stand under in the help, and what declares a setting under each: `option`."""

import functools

from mlp_xp.settings.options import option

DATA, CSV, NETWORK, TRAINING = "Data", "CSV files", "Network", "Training"
END, OUTPUT, CHECKPOINTS, MACHINE = "Held-out part and when it stops", "Output", "Checkpoints", "Machine"
MEMORY, GENERAL = "Memory and cache", "General"

PANELS = (DATA, CSV, NETWORK, TRAINING, END, OUTPUT, CHECKPOINTS, MACHINE, MEMORY, GENERAL)
"""In the order of the help."""

data, csv, training, end, machine, memory, general = (
    functools.partial(option, panel=panel) for panel in (DATA, CSV, TRAINING, END, MACHINE, MEMORY, GENERAL)
)
network = functools.partial(option, panel=NETWORK, of_model=True)
output = functools.partial(option, panel=OUTPUT, may_differ=True)
checkpoint = functools.partial(option, panel=CHECKPOINTS, may_differ=True)
