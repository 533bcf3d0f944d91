version = "sandbox"
