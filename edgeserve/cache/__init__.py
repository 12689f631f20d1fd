"""What a box keeps of weights between two starts: tensors under the name of their content, and the
SHA-256 of files that were hashed once.

It knows no network and no model. All names in it are made of digests, so nothing that came over a
wire becomes a path; everything in it may be deleted at any time, at the price of bringing it again.

Not covered: encryption of what lies here; file systems without locks (NFS without its lock daemon).
"""
