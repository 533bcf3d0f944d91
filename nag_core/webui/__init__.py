"""The WebUI side: arguments to job, job to sampling passes, report back into infotext and comments."""
