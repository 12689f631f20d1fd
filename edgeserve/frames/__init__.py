"""The vocabulary of one frame, which gateway, wire and worker share: a stage, a segment, how a
token is drawn, and where a stage's time went.

Data only. Not covered: bytes (`wire/`), tensors (`worker/`), and who decides (`schedule/`).
"""
