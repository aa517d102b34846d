"""Checkpoints of other libraries, read without those libraries.

``torch_file`` turns a file into arrays, ``rename`` maps its keys by a table of rules, and one
module a library holds its table and recognises its architectures.
"""
