"""The method: eq. 5 and 7-10 on attention outputs, and what they are computed on. Torch only."""
