"""How good the maps are: pure array functions (``metrics``), the paper's protocol made of them (``protocol``), and the same
for any number of photos (``streaming``)."""
