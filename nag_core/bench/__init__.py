"""What NAG costs: random-weight models of true sizes, timed side by side in one process. `python -m
nag_core.bench`.
"""
