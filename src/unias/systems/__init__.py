"""The systems of the comparison, and the door for others: one class a system (``base.System``), found by name
(``registry``), used through one detector (``detector``)."""
