"""How each kind of artifact is run, one file each. Found through entry points, imported by nobody."""
