"""Wire formats, one file each: bytes to task requests, results to bytes. No policy here."""
