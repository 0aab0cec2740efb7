"""Trainers, one file each, and the service that runs them as jobs. Found through entry points."""
