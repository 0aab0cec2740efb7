"""Kinds of work, one file each: the request, result and delta types that travel."""
