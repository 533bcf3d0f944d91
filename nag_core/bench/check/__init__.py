"""`python -m nag_core.bench --gpu-check`: everything that only a GPU can show, within six minutes.

For a machine that is lent for a quarter of an hour, with torch and numpy and little else. Every part is
written to the files as it ends, so a cut at any moment leaves what was done. Without a GPU it runs at toy
size, which shows that it runs and proves nothing.
"""
