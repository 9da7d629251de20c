"""How good the maps are: pure array functions (``metrics``) and the paper's protocol made of them (``protocol``)."""
