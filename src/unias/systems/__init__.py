"""The systems of the comparison. So far their networks, proven on the authors' numbers; training and maps follow."""
