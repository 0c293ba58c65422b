"""Folders that lie in a bucket, gs:// or s3://: their paths, and the lock that holds one for a single writer."""
