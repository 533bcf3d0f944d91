"""The hosts with a UNet patcher: Forge main, Forge Neo, reForge, Forge Classic."""
