"""From one format of saved models to another: what only a person at the command line asks for."""
