"""What a model is: its numbers, the names of its tensors, its files.

Data and arithmetic; nothing is computed here. A family is one small file: a table that sorts every
key of its config.json, and a function that turns the used ones into a `ModelSpec`. What no table
lists is refused by name or told, never guessed. Nothing outside this package names a family.

Not covered: mixtures of experts; quantised checkpoints; layers that differ from each other (windows
on some layers only); rotary scaling other than `linear` and `llama3`; encoders; images and sound.
"""
