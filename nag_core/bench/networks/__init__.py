"""The models of the bench in torch alone, with random weights, as wide and as costly as the real ones.

They compute what diffusers' classes compute (tests/unit/test_bench_networks.py counts the operations of
both); no checkpoint fits.
"""
