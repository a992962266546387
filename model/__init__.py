"""The deployable: everything that runs in the challenge. Imports nothing from `sctlab`."""

import os

# Threads of OpenMP (PyTorch's) that wait for each other sleep instead of spinning, unless the user wants otherwise. OpenMP
# reads this when it is loaded, and a script that imports this library runs no command first: hence here, before anything
# of it imports PyTorch. Two threads on two processors that 18 processes share (`OMP_NUM_THREADS=2`): a registration of
# 6.1 s (one thread: 5.9 s) had not ended after some 45 s of spinning, when it was stopped; one run each.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
