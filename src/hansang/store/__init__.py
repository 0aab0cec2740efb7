"""What the server keeps: `control.db`, and blobs by their sha256."""
