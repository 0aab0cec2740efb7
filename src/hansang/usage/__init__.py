"""What happened: metrics."""
