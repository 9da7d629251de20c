"""The method. Read ``unias.py`` first: it composes every other file of this folder.

Legend of the axes used throughout: N batch, C channels of a feature map, D width of tokens, T tokens (grid x grid, row
by row), H x W positions of a map. Levels are keyed 4 (coarsest) ... 1 (finest).
"""
