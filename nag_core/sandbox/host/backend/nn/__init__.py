"""Stand-in for the WebUI package of this name; see nag_core.sandbox."""
