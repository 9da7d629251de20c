"""The networks of the systems, each proven on its authors' numbers; losses and maps beside them."""
